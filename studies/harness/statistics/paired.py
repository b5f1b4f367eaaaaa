"""Paired tests, Holm's correction, the rule for bold arms, detectable effects, Kendall's tau.

Trials with the same seed have the same initial weights and data order in all arms. Arms are
therefore compared by seed: the paired t-test removes the noise that they share. The functions
accept leading axes, so that one call tests many tables. nan is a seed without a result.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats

from studies.harness.statistics.intervals import CONFIDENCE

ALPHA = 1 - CONFIDENCE
POWER = 0.80
SAME = 0.003  # the equivalence margin of accuracies: 0.3 percentage points
ROUNDING = 1e-12  # an SD below this fraction of the values is a rounding error and counts as 0


def paired_p(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value of the paired t-test: differences by seed [..., n] -> [...].

    The p-value is nan if there are fewer than two differences, or if all differences are equal.
    """
    n, mean, sd = moments(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean) * np.sqrt(n) / sd, np.maximum(n - 1, 1))
    return np.where(sd > 0, p, np.nan)


def equivalence_p(differences: np.ndarray, margin: float) -> np.ndarray:
    """Return the p-value of the equivalence test (two one-sided paired t-tests): [..., n] -> [...].

    The p-value is small if the mean difference lies within +-margin. It is 0 if there are at least
    two differences and all are 0. It is nan if there are fewer than two differences, or if all are
    equal but not 0.
    """
    n, mean, sd = moments(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.t.sf((margin - np.abs(mean)) * np.sqrt(n) / sd, np.maximum(n - 1, 1))
    return np.where(sd > 0, p, np.where((n >= 2) & (mean == 0), 0.0, np.nan))


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm-adjusted p-values along the last axis: [..., m] -> [..., m].

    nan stays nan and does not count as a test.
    """
    order = np.argsort(p, axis=-1)  # nan last
    tests = np.sum(~np.isnan(p), axis=-1, keepdims=True)
    scaled = np.take_along_axis(p, order, axis=-1) * (tests - np.arange(p.shape[-1]))
    adjusted = np.empty_like(scaled)
    np.put_along_axis(
        adjusted, order, np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0), axis=-1
    )
    return adjusted


def unbeaten(values: np.ndarray, higher: bool = True) -> np.ndarray:
    """Return True for each arm that is better than at least one arm and worse than none.

    An arm is better if the paired t-test is significant, Holm-corrected over all pairs of arms.
    Several arms can be True. If all arms are equal in distribution, any arm is True with
    probability at most ALPHA.

    Args:
        values: [..., seeds, arms]; nan if a seed has no result.
        higher: True if larger values are better.

    Returns:
        Booleans [..., arms].
    """
    arms = values.shape[-1]
    first, second = np.triu_indices(arms, 1)
    differences = np.swapaxes(values[..., first] - values[..., second], -1, -2)
    significant = holm(paired_p(differences)) <= ALPHA  # False for nan
    ahead = (moments(differences)[1] > 0) == higher
    wins = np.zeros((*values.shape[:-2], arms, arms), dtype=bool)  # [winner, loser]
    wins[..., first, second] = significant & ahead
    wins[..., second, first] = significant & ~ahead
    return np.logical_and(wins.any(axis=-1), np.logical_not(wins.any(axis=-2)))


def smallest_effect(df: int) -> float:
    """Return the effect, in standard errors, that a two-sided 5% t-test detects with 80% power.

    `df` >= 1 is the number of degrees of freedom.
    """
    critical = float(stats.t.ppf(1 - ALPHA / 2, df))
    # SciPy's noncentral t distribution returns nan for few degrees of freedom. Instead, average
    # the power of the normal test over the distribution of the estimated SD.
    spread = np.sqrt(stats.chi2.ppf((np.arange(10_000) + 0.5) / 10_000, df) / df)

    def shortfall(noncentrality: float) -> float:
        upper = stats.norm.sf(critical * spread - noncentrality)
        lower = stats.norm.cdf(-critical * spread - noncentrality)
        return float((upper + lower).mean()) - POWER

    return float(optimize.brentq(shortfall, 0.1, 10 * critical))  # type: ignore[arg-type]


def moments(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the count, mean and sample SD of the values that are not nan, along the last axis.

    An SD that is only a rounding error is returned as 0.
    """
    n = np.sum(~np.isnan(differences), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(differences, axis=-1) / n
        square = np.nansum((differences - mean[..., None]) ** 2, axis=-1)
        sd = np.sqrt(np.where(n >= 2, square, np.nan) / (n - 1))
    size = np.max(np.abs(np.nan_to_num(differences)), axis=-1, initial=0.0)
    return n, mean, np.where(sd <= ROUNDING * size, 0.0, sd)


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b of x [n] and each y [..., n]; nan if all values of x or of y are tied."""
    first, second = np.triu_indices(len(x), 1)
    of_x, of_y = np.sign(x[first] - x[second]), np.sign(y[..., first] - y[..., second])
    with np.errstate(invalid="ignore"):
        return (of_x * of_y).sum(axis=-1) / np.sqrt((of_x**2).sum() * (of_y**2).sum(axis=-1))
