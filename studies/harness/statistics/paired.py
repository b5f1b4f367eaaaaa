"""Paired tests, rank tests for pairs with failures, Holm's correction, Kendall's tau.

Trials with the same seed have the same initial weights and data order in all arms. Arms are
therefore compared by seed: the paired t-test removes the noise that they share. The functions
accept leading axes, so that one call tests many tables. nan is a seed without a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from studies.harness.statistics.intervals import CONFIDENCE, half_width

ALPHA = 1 - CONFIDENCE
POWER = 0.80
ROUNDING = 1e-12  # an SD below this fraction of the values is a rounding error


@dataclass(frozen=True)
class MeanTest:
    """Student's t-tests of mean gains. Each attribute is an array without the axis of the seeds.

    Attributes:
        n: Number of gains that are not nan.
        mean: Their mean.
        ci_lo: Lower end of the 95% t-interval of the mean; nan below two gains.
        ci_hi: Upper end of the interval.
        p_greater: One-sided p-value for "the mean is greater than 0"; nan below two gains.
        p_less: One-sided p-value for "the mean is less than 0".
    """

    n: np.ndarray
    mean: np.ndarray
    ci_lo: np.ndarray
    ci_hi: np.ndarray
    p_greater: np.ndarray
    p_less: np.ndarray


def mean_test(gains: np.ndarray, step: float = 0.0) -> MeanTest:
    """Test if the mean of paired gains is greater or less than 0.

    The SD has a lower limit, so that gains that are all equal can be tested. On a grid it is
    step / sqrt(6), because each of the two rounding errors in a gain has the variance step**2 / 12.
    Without a grid it is the rounding error of floating point numbers, so the p-value of a constant
    gain is about 0. If all gains are 0, both p-values are 0.5.

    Args:
        gains: [..., n], finite or nan. To test against -margin, add the margin.
        step: The distance of two neighbouring values of the metric; 0 if it is continuous.
    """
    n, mean, sd = moments(gains)
    size = np.max(np.abs(np.nan_to_num(gains)), axis=-1, initial=0.0)
    sd = np.maximum(sd, np.maximum(step / np.sqrt(6), ROUNDING * size))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((mean == 0) & (n >= 2), 0.0, mean * np.sqrt(n) / sd)
    half, df = half_width(n, sd), np.maximum(n - 1, 1)
    p_greater, p_less = stats.t.sf(t, df), stats.t.cdf(t, df)
    return MeanTest(n, mean, mean - half, mean + half, p_greater, p_less)


class RankTest(NamedTuple):
    """One-sided p-values of a rank test: the arm has better, or worse, results than the base."""

    p_better: float
    p_worse: float


def rank_p(arm: np.ndarray, base: np.ndarray, higher: bool) -> RankTest:
    """Test if the results of two arms differ, where a failure is the worst result.

    This is the exact permutation test of Wilcoxon's rank sum with midranks for ties. It ignores
    which results share a seed: with five seeds a paired sign test has a two-sided p-value of at
    least 0.06, this test of at least 0.008. It assumes that the results of an arm are independent
    of those of the base, or positively correlated with them. The latter makes it conservative.

    Args:
        arm: [n] the results of the arm by seed; -inf (or inf if smaller is better) is a failure.
            nan is a seed without a result, which is ignored in both arms.
        base: [n] the results of the base under the same seeds.
        higher: True if larger values are better.

    Returns:
        The p-values; nan below two common seeds.
    """
    common = ~(np.isnan(arm) | np.isnan(base))
    n = int(common.sum())
    if n < 2:
        return RankTest(np.nan, np.nan)
    pooled = np.concatenate([arm[common], base[common]])
    ranks = np.rint(2 * stats.rankdata(pooled if higher else -pooled)).astype(int)
    chances, total = _rank_sum(ranks, n), int(ranks[:n].sum())
    tails = chances[total:].sum(), chances[: total + 1].sum()
    return RankTest(*(min(1.0, float(tail)) for tail in tails))


def _rank_sum(ranks: np.ndarray, n: int) -> np.ndarray:
    """Return the probability of each sum of n of the ranks, drawn without replacement."""
    ways = np.zeros((n + 1, int(ranks.sum()) + 1))  # [number of ranks drawn, their sum]
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank].copy()
    return ways[n] / ways[n].sum()


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
