"""Times to a target: the epoch at which a curve reaches it, and the Kaplan-Meier median over runs.

A run that ends without reaching the target is right-censored at the last epoch of the arm's longest
run. It is counted, not dropped; no mean includes its time.
"""

from __future__ import annotations

import math
import warnings
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
        ci_lo: Lower end of the median's 95% interval (log-log, Brookmeyer and Crowley); nan if
            there are too few runs.
        ci_hi: Upper end of the interval; nan if the runs do not bound it.
    """

    hits: int
    n: int
    median: float
    ci_lo: float
    ci_hi: float


def median_time(times: Sequence[float], observed: Sequence[bool]) -> TimeToTarget:
    """Return the Kaplan-Meier median of the times to the target.

    Args:
        times: The epoch at which each run reached the target or ended.
        observed: True for each run that reached the target.
    """
    hits = int(np.sum(observed))
    if not hits:
        return TimeToTarget(0, len(times), math.nan, math.nan, math.nan)
    censored = stats.CensoredData.right_censored(
        np.asarray(times, float), ~np.asarray(observed, bool)
    )
    survival = stats.ecdf(censored).sf
    with warnings.catch_warnings():
        # Where the interval is undefined, SciPy warns and returns nan.
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = survival.confidence_interval(CONFIDENCE, method="log-log")
    curves = survival.probabilities, interval.low.probabilities, interval.high.probabilities
    return TimeToTarget(hits, len(times), *(_first(survival.quantiles, curve) for curve in curves))


def hits(
    runs: Mapping[int, Sequence[float]], target: float, whole: bool = False
) -> dict[int, float]:
    """Return, by seed, the epoch at which the run reaches the target, or nan.

    If `whole` is True, the epochs are not interpolated.
    """
    return {seed: hit(curve, target, interpolate=not whole) for seed, curve in runs.items()}


def time_to_target(
    runs: Mapping[int, Sequence[float]], target: float, whole: bool = False
) -> TimeToTarget:
    """Return the time, in epochs, that an arm's runs need to reach a target.

    Args:
        runs: The curve of each seed; larger values are better.
        target: The value to reach.
        whole: If True, the epochs are not interpolated.
    """
    epochs = np.array(list(hits(runs, target, whole).values()), dtype=float)
    # A diverged run can never reach the target, so it is censored at the end of the longest run.
    cap = max(map(len, runs.values()), default=0)
    observed = ~np.isnan(epochs)
    return median_time(np.where(observed, epochs, cap).tolist(), observed.tolist())


def _first(times: np.ndarray, survival: np.ndarray) -> float:
    """Return the first time at which a survival curve is at most one half."""
    below = np.flatnonzero(survival <= 0.5 + 1e-12)  # allows for rounding
    return float(times[below[0]]) if len(below) else math.nan
