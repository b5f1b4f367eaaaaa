"""Time to a target: when a curve reaches it for good, and Kaplan-Meier over seeds, since some never do.

A run that ends before it hits is right-censored at its last epoch: counted as k of n, never dropped, and no infinity
or cap enters a mean.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from studies.harness.statistics import CONFIDENCE
from trainables.store import COMPLETED, DIVERGED, FAILED, OOM

ENDED = (COMPLETED, DIVERGED, OOM, FAILED)
IN_A_ROW = 2
RULE = (
    "A target is hit at the first of two evaluations in a row that meet it, at an epoch interpolated linearly from the "
    "evaluation before; a single lucky evaluation, the last one included, is no hit."
)


def hit(curve: Sequence[float], target: float, higher: bool = True, interpolate: bool = True) -> float:
    """The epoch at which a curve reaches a target, or nan.

    Args:
        curve: One evaluation after each epoch: the first is epoch 1.
        target: What is to be reached.
        higher: Whether larger is better.
        interpolate: Where False, the hit is the whole epoch of the evaluation, as papers count.
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
    """One arm's time to one target over its seeds.

    Attributes:
        hits: Runs that reached the target.
        n: Runs.
        median: Kaplan-Meier median, in epochs; nan where fewer than half reach the target.
        ci_lo: Lower end of the median's 95% interval (log-log, Brookmeyer and Crowley); nan where the runs are too few.
        ci_hi: Its upper end; nan where the runs do not bound it.
    """

    hits: int
    n: int
    median: float
    ci_lo: float
    ci_hi: float


def median_time(times: Sequence[float], observed: Sequence[bool]) -> TimeToTarget:
    """Kaplan-Meier median of right-censored times.

    Args:
        times: For each run its hit, or the epoch at which it ended without one.
        observed: Whether it is a hit.
    """
    if not len(times):
        return TimeToTarget(0, 0, math.nan, math.nan, math.nan)
    hits = int(np.sum(observed))
    if not hits:
        return TimeToTarget(0, len(times), math.nan, math.nan, math.nan)
    censored = stats.CensoredData.right_censored(np.asarray(times, float), ~np.asarray(observed, bool))
    survival = stats.ecdf(censored).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "undefined at some observations": nan says it
        interval = survival.confidence_interval(CONFIDENCE, method="log-log")
    at = survival.quantiles
    curves = survival.probabilities, interval.low.probabilities, interval.high.probabilities
    median, lo, hi = (_first(at, curve) for curve in curves)
    return TimeToTarget(hits, len(times), median, lo, hi)


def time_to_target(frame: pd.DataFrame, metric: str, target: float, higher: bool = True) -> pd.DataFrame:
    """Every arm's time to a target; trials that are still to run, or running, are left out.

    Args:
        frame: `ledger.frame(..., per="epoch")`: a run's epochs are in order.
        metric: The column with the evaluations.
        target: In the metric's unit.
        higher: Whether larger is better.

    Returns:
        Columns `arm hits n median ci_lo ci_hi`, in epochs, an arm a row in the order of the plan.
    """
    rows = []
    for arm, epochs in frame[frame["status"].isin(ENDED)].groupby("arm", sort=False):
        times, observed = [], []
        for _, run in epochs.groupby("trial_key", sort=False):
            curve = [float(value) for value in run[metric]]
            epoch = hit(curve, target, higher)
            observed.append(not math.isnan(epoch))
            times.append(len(curve) if math.isnan(epoch) else epoch)
        rows.append({"arm": arm, **vars(median_time(times, observed))})
    return pd.DataFrame(rows, columns=["arm", "hits", "n", "median", "ci_lo", "ci_hi"])


def _first(times: np.ndarray, survival: np.ndarray) -> float:
    """The first time at which a survival curve is at most one half."""
    below = np.flatnonzero(survival <= 0.5 + 1e-12)  # a product of fractions, rounded
    return float(times[below[0]]) if len(below) else math.nan
