"""Paired tests, Holm's correction, which arms are bold, the smallest effect that a test detects, agreement of orders.

Seeds share initial weights and data order across arms, so arms are compared seed by seed: the paired t test removes the
part of the noise that they share. Functions of arrays take leading axes, so that one call tests many tables; nan is a
seed without a result.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats

from studies.harness.statistics.intervals import CONFIDENCE

ALPHA = 1 - CONFIDENCE
POWER = 0.80
SAME = 0.003  # accuracies closer than 0.3 points are called equal
ROUNDING = (
    1e-12  # a spread below this part of the values is rounding, and nothing can be tested with it
)


def paired_p(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value of the paired t test: differences [..., n], one per seed -> [...].

    It is nan if fewer than two differences are not nan, or if all are equal: there is nothing to test with.
    """
    n, mean, sd = moments(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            sd > 0, 2 * stats.t.sf(np.abs(mean) * np.sqrt(n) / sd, np.maximum(n - 1, 1)), np.nan
        )


def equivalence_p(differences: np.ndarray, margin: float) -> np.ndarray:
    """Return the p-value of two one-sided paired t tests: small if the mean difference lies within +-margin.

    As `paired_p`: [..., n] -> [...]; nan without two differences, 0 if every difference is exactly 0.
    """
    n, mean, sd = moments(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.t.sf((margin - np.abs(mean)) * np.sqrt(n) / sd, np.maximum(n - 1, 1))
    return np.where(sd > 0, p, np.where((n >= 2) & (mean == 0), 0.0, np.nan))


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values along the last axis: [..., m] -> [..., m]; nan is not a test."""
    order = np.argsort(p, axis=-1)  # nan last
    tests = np.sum(~np.isnan(p), axis=-1, keepdims=True)
    scaled = np.take_along_axis(p, order, axis=-1) * (tests - np.arange(p.shape[-1]))
    adjusted = np.empty_like(scaled)
    np.put_along_axis(
        adjusted, order, np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0), axis=-1
    )
    return adjusted


def unbeaten(values: np.ndarray, higher: bool = True) -> np.ndarray:
    """Return which arms of a table are bold: they beat an arm, and none beats them, after Holm over all pairs of arms.

    Arms that tie at the top share it. If all arms are equal, a table has a bold cell with probability at most ALPHA.

    Args:
        values: [..., seeds, arms]; nan if a seed has no result.
        higher: True if larger is better.

    Returns:
        [..., arms], bool.
    """
    arms = values.shape[-1]
    first, second = np.triu_indices(arms, 1)
    differences = np.swapaxes(values[..., first] - values[..., second], -1, -2)
    significant = holm(paired_p(differences)) <= ALPHA  # nan compares false
    ahead = (moments(differences)[1] > 0) == higher
    wins = np.zeros((*values.shape[:-2], arms, arms), dtype=bool)  # [winner, loser]
    wins[..., first, second] = significant & ahead
    wins[..., second, first] = significant & ~ahead
    return np.logical_and(wins.any(axis=-1), np.logical_not(wins.any(axis=-2)))


def smallest_effect(df: int) -> float:
    """Return the difference in standard errors at which a two-sided t test at 5% with df >= 1 has 80% power."""
    critical = float(stats.t.ppf(1 - ALPHA / 2, df))
    # The noncentral t itself is nan for few degrees of freedom: average the normal power over the estimated SD instead.
    spread = np.sqrt(stats.chi2.ppf((np.arange(10_000) + 0.5) / 10_000, df) / df)

    def shortfall(noncentrality: float) -> float:
        beyond = stats.norm.sf(critical * spread - noncentrality) + stats.norm.cdf(
            -critical * spread - noncentrality
        )
        return float(beyond.mean()) - POWER

    return float(optimize.brentq(shortfall, 0.1, 10 * critical))  # type: ignore[arg-type]


def moments(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean and sample SD along the last axis, without nan; the SD is 0 if it is mere rounding."""
    n = np.sum(~np.isnan(differences), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(differences, axis=-1) / n
        square = np.nansum((differences - mean[..., None]) ** 2, axis=-1)
        sd = np.sqrt(np.where(n >= 2, square, np.nan) / (n - 1))
    size = np.max(np.abs(np.nan_to_num(differences)), axis=-1, initial=0.0)
    return n, mean, np.where(sd <= ROUNDING * size, 0.0, sd)


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b of x [n] with each y [..., n]; nan if all values of either are tied."""
    first, second = np.triu_indices(len(x), 1)
    of_x, of_y = np.sign(x[first] - x[second]), np.sign(y[..., first] - y[..., second])
    with np.errstate(invalid="ignore"):
        return (of_x * of_y).sum(axis=-1) / np.sqrt((of_x**2).sum() * (of_y**2).sum(axis=-1))
