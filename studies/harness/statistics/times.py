"""Times to a target: the epoch at which a curve reaches it, and the Kaplan-Meier median over runs.

A run that ends without reaching the target is right-censored at the last epoch of the arm's longest
run. It is counted, not dropped; no mean includes its time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from studies.harness.statistics.intervals import CONFIDENCE

RULE = (
    "A trial reaches the target at the first of two consecutive evaluations that meet it. The epoch "
    "is interpolated linearly between this evaluation and the previous one. A single evaluation "
    "that meets the target does not count, even if it is the last one."
)


def hit(
    curve: Sequence[float], target: float, higher: bool = True, interpolate: bool = True
) -> float:
    """Return the epoch at which a curve reaches a target by `RULE`, or nan.

    Args:
        curve: One evaluation after each epoch; the first is that of epoch 1.
        target: The value to reach.
        higher: True if larger values are better.
        interpolate: If False, return the whole epoch of the evaluation, as the papers do.
    """
    values = np.asarray(curve, dtype=float)
    meets = values >= target if higher else values <= target  # False for nan
    runs = np.flatnonzero(meets[:-1] & meets[1:])
    if not len(runs):
        return math.nan
    first = int(runs[0])
    before = values[first - 1] if first else math.nan
    if not interpolate or not math.isfinite(before):
        return float(first + 1)
    return first + (target - before) / (values[first] - before)


@dataclass(frozen=True)
class TimeToTarget:
    """The time to a target of an arm's runs.

    Attributes:
        hits: Number of runs that reached the target.
        n: Number of runs.
        median: Kaplan-Meier median in epochs; nan if fewer than half of the runs reach the target.
        ci_lo: Lower end of the median's 95% interval; nan below six runs, because even the range of
            five runs contains the median in only 94% of samples.
        ci_hi: Upper end of the interval; nan if the runs do not bound it.
    """

    hits: int
    n: int
    median: float
    ci_lo: float
    ci_hi: float


def median_time(times: Sequence[float], observed: Sequence[bool]) -> TimeToTarget:
    """Return the Kaplan-Meier median of the times to the target.

    If the survival curve is exactly 1/2 between two hits, the median is their midpoint, as for an
    even number of uncensored times; after the last hit, the end of the last run takes the place of
    the second hit (`quantile.survfit` of the R package survival has the same rule).

    The interval is between two order statistics. It is exact for every distribution of the times,
    because the number of runs before the true median is binomial. A censored run counts at its end
    for the lower limit and as infinite for the upper limit. The log-log interval of the survival
    curve is not used: it contains the median in 92% to 94% of samples of 3, 4, 7, 10 or 15 runs.

    Args:
        times: The epoch at which each run reached the target or ended.
        observed: True for each run that reached the target.
    """
    ends, reached = np.asarray(times, dtype=float), np.asarray(observed, dtype=bool)
    low, high = _interval(ends, reached)
    return TimeToTarget(int(reached.sum()), len(ends), _median(ends, reached), low, high)


def _median(ends: np.ndarray, reached: np.ndarray) -> float:
    if not reached.any():
        return math.nan
    survival = stats.ecdf(stats.CensoredData.right_censored(ends, ~reached)).sf
    # Each first time at which the curve is at most, and below, one half; allows for rounding.
    first, second = (
        survival.quantiles[survival.probabilities <= 0.5 + sign * 1e-12] for sign in (1, -1)
    )
    if not len(first):
        return math.nan
    return float((first[0] + (second[0] if len(second) else ends.max())) / 2)


def _interval(ends: np.ndarray, reached: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95% interval of the median; nan where the runs do not bound it."""
    n = len(ends)
    k = int(stats.binom.ppf((1 - CONFIDENCE) / 2, n, 0.5)) if n else 0
    if not k or not reached.any():
        return math.nan, math.nan
    high = np.sort(np.where(reached, ends, math.inf))[n - k]
    return float(np.sort(ends)[k - 1]), float(high) if math.isfinite(high) else math.nan


def hits(
    runs: Mapping[int, Sequence[float]], target: float, higher: bool = True, whole: bool = False
) -> dict[int, float]:
    """Return, by seed, the epoch at which the run reaches the target, or nan.

    If `whole` is True, the epochs are not interpolated.
    """
    return {seed: hit(curve, target, higher, not whole) for seed, curve in runs.items()}


def time_to_target(
    runs: Mapping[int, Sequence[float]], target: float, higher: bool = True, whole: bool = False
) -> TimeToTarget:
    """Return the time, in epochs, that an arm's runs need to reach a target.

    Args:
        runs: The curve of each seed.
        target: The value to reach.
        higher: True if larger values are better.
        whole: If True, the epochs are not interpolated.
    """
    epochs = np.array(list(hits(runs, target, higher, whole).values()), dtype=float)
    # A diverged run can never reach the target, so it is censored at the end of the longest run.
    cap = max(map(len, runs.values()), default=0)
    observed = ~np.isnan(epochs)
    return median_time(np.where(observed, epochs, cap).tolist(), observed.tolist())
