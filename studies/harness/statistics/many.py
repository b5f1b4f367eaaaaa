"""Comparisons of all pairs of arms of a table, with power for few seeds and many arms.

Holm's correction over 91 pairs requires a p-value of 0.0005, which a t-test with three seeds
reaches only if the mean gain is 25 times its SD. The arms of a table usually have similar noise, so
the variance of a pair is averaged with that of all pairs. This adds degrees of freedom: Smyth,
"Linear models and empirical Bayes methods for assessing differential expression" (2004).
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from studies.harness.statistics.paired import ROUNDING, holm, moments

CAUTION = 0.25  # the part of Smyth's weight that is used; the whole weight causes too many errors
# Trigamma function, to invert it by interpolation.
_HALF_DF = np.logspace(-3, 5, 4000)
_LOG_TRIGAMMA = np.log(special.polygamma(1, _HALF_DF))


def all_pairs_p(values: np.ndarray, step: float = 0.0) -> np.ndarray:
    """Return adjusted two-sided p-values of all pairs of arms: [..., seeds, arms] -> [..., pairs].

    They are Holm-adjusted p-values of moderated paired t-tests. `docs/statistics.md` shows in which
    share of simulated tables a difference is called significant by chance.

    Args:
        values: Results by seed; nan is a seed without a result. An infinite value is a failure: it
            counts as a result that is below (or above) all others of the table by their range.
        step: The distance of two neighbouring values of the metric; 0 if it is continuous.

    Returns:
        One p-value for each pair, in the order of `np.triu_indices(arms, 1)`; nan if a pair has
        fewer than two common seeds.
    """
    first, second = np.triu_indices(values.shape[-1], 1)
    failed = np.sum(np.isinf(values), axis=-2) > 0
    failures = failed[..., first] | failed[..., second]
    values = _without_infinity(values)
    gains = np.swapaxes(values[..., first] - values[..., second], -1, -2)
    n, mean, sd = moments(gains)
    size = np.max(np.abs(np.nan_to_num(gains)), axis=-1, initial=0.0)
    variance = np.maximum(sd, np.maximum(step / np.sqrt(6), ROUNDING * size)) ** 2
    df = np.maximum(n - 1, 1)
    arms = np.sum(np.sum(~np.isnan(values), axis=-2) >= 2, axis=-1)[..., None]
    weight, prior = _prior(variance, df, failures)
    moderated = (weight * prior + df * variance) / (weight + df)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((mean == 0) & (n >= 2), 0.0, np.abs(mean) * np.sqrt(n / moderated))
    return holm(2 * stats.t.sf(t, np.minimum(weight + df, np.maximum(arms - 1, 1) * df)))


def _prior(
    variances: np.ndarray, df: np.ndarray, failures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight and the value of each pair's prior variance: [..., pairs] each.

    It is the mean variance of the pairs with failures for a pair with failures, and that of the
    other pairs otherwise: the variances of pairs with failures are so large that one failure would
    hide the differences of all other pairs.
    """
    weights, priors = np.zeros_like(variances), np.zeros_like(variances)
    for group in (failures, ~failures):
        members = np.where(group, variances, np.nan)
        count = np.sum(~np.isnan(members), axis=-1, keepdims=True)
        mean = np.nansum(members, axis=-1, keepdims=True) / np.maximum(count, 1)
        weights = np.where(group, CAUTION * prior_df(members, df), weights)
        priors = np.where(group, mean, priors)
    return weights, priors


def prior_df(variances: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Return the degrees of freedom of the mean variance as a prior: [..., pairs] -> [..., 1].

    This is Smyth's estimate d0. It compares the spread of the log variances with the spread that
    estimates of one common variance would have. It is large if the two spreads are similar, and 0
    if there are fewer than two variances.

    Args:
        variances: Sample variances; nan and 0 are ignored.
        df: Their degrees of freedom.
    """
    logs = np.log(np.where(variances > 0, variances, np.nan))
    logs = logs - special.digamma(df / 2) + np.log(df / 2)
    known = ~np.isnan(logs)
    count = np.sum(known, axis=-1, keepdims=True)
    deviations = logs - np.nansum(logs, axis=-1, keepdims=True) / np.maximum(count, 1)
    spread = np.nansum(deviations**2, axis=-1, keepdims=True) / np.maximum(count - 1, 1)
    noise = np.where(known, special.polygamma(1, df / 2), 0.0)
    excess = spread - noise.sum(axis=-1, keepdims=True) / np.maximum(count, 1)
    excess = np.log(np.maximum(excess, np.exp(_LOG_TRIGAMMA[-1])))
    d0 = 2 * np.exp(np.interp(-excess, -_LOG_TRIGAMMA, np.log(_HALF_DF)))
    return np.where(count >= 2, d0, 0.0)


def _without_infinity(values: np.ndarray) -> np.ndarray:
    """Replace infinite values by finite ones that are below, or above, all values of the table.

    -inf becomes the smallest value minus the range of the values, and inf the largest value plus
    the range. The replacement is the same for all arms, so two arms with the same distribution of
    results also have the same distribution after it.
    """
    if not np.isinf(values).any():
        return values
    finite, axes = np.isfinite(values), (-2, -1)
    low = np.min(values, axis=axes, keepdims=True, where=finite, initial=np.inf)
    high = np.max(values, axis=axes, keepdims=True, where=finite, initial=-np.inf)
    low, high = np.where(low <= high, low, 0.0), np.where(low <= high, high, 0.0)
    span = np.where(high > low, high - low, 1.0)
    values = np.where(values == -np.inf, low - span, values)
    return np.where(values == np.inf, high + span, values)
