"""Times to a target: when a curve reaches it for good, and their Kaplan-Meier median, since some never do.

A run that ends before it hits is right-censored at the last epoch: counted as k of n, never dropped, and no infinity
or cap enters a mean.
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
    "A target is hit at the first of two evaluations in a row that meet it, at an epoch interpolated linearly from the "
    "evaluation before; a single lucky evaluation, the last one included, is no hit."
)


def hit(
    curve: Sequence[float], target: float, higher: bool = True, interpolate: bool = True
) -> float:
    """Return the epoch at which a curve reaches a target, or nan.

    Args:
        curve: One evaluation after each epoch: the first is epoch 1.
        target: The value to reach.
        higher: True if larger is better.
        interpolate: If False, the hit is the whole epoch of the evaluation, as papers count.
    """
    values = np.asarray(curve, dtype=float)
    meets = values >= target if higher else values <= target  # nan does not
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
    """An arm's time to a target over its seeds.

    Attributes:
        hits: Runs that reached the target.
        n: Runs.
        median: Kaplan-Meier median, in epochs; nan if fewer than half reach the target.
        ci_lo: Lower end of the median's 95% interval (log-log, Brookmeyer and Crowley); nan if the runs are too few.
        ci_hi: Its upper end; nan if the runs do not bound it.
    """

    hits: int
    n: int
    median: float
    ci_lo: float
    ci_hi: float


def median_time(times: Sequence[float], observed: Sequence[bool]) -> TimeToTarget:
    """Return the Kaplan-Meier median of each run's hit, or of the epoch at which it ended if it is not `observed`."""
    hits = int(np.sum(observed))
    if not hits:
        return TimeToTarget(0, len(times), math.nan, math.nan, math.nan)
    censored = stats.CensoredData.right_censored(
        np.asarray(times, float), ~np.asarray(observed, bool)
    )
    survival = stats.ecdf(censored).sf
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # "undefined at some observations": the result is nan there
        interval = survival.confidence_interval(CONFIDENCE, method="log-log")
    curves = survival.probabilities, interval.low.probabilities, interval.high.probabilities
    return TimeToTarget(hits, len(times), *(_first(survival.quantiles, curve) for curve in curves))


def hits(
    runs: Mapping[int, Sequence[float]], target: float, whole: bool = False
) -> dict[int, float]:
    """Return the epoch of each seed's hit, nan if there is none; papers count `whole` epochs."""
    return {seed: hit(curve, target, interpolate=not whole) for seed, curve in runs.items()}


def time_to_target(
    runs: Mapping[int, Sequence[float]], target: float, whole: bool = False
) -> TimeToTarget:
    """Return the time to a target, in epochs, of an arm's curves by seed, of which larger values are better."""
    epochs = np.array(list(hits(runs, target, whole).values()), dtype=float)
    cap = max(
        map(len, runs.values()), default=0
    )  # a run that diverged can never hit: it counts until the others end
    return median_time(
        np.where(np.isnan(epochs), cap, epochs).tolist(), (~np.isnan(epochs)).tolist()
    )


def _first(times: np.ndarray, survival: np.ndarray) -> float:
    """Return the first time at which a survival curve is at most one half."""
    below = np.flatnonzero(survival <= 0.5 + 1e-12)  # a product of fractions, rounded
    return float(times[below[0]]) if len(below) else math.nan
