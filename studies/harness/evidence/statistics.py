"""Means over seeds with Student t intervals. Only completed trials enter a mean; the others are counted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from studies.harness.evidence.ledger import COMPLETED, DIVERGED, FAILED, IN_FLIGHT, NOT_RUN, OOM, factors

CONFIDENCE = 0.95
SECONDS = "time/train_s"
BEST = "best"
UNFINISHED = (DIVERGED, OOM, FAILED, IN_FLIGHT, NOT_RUN)


@dataclass(frozen=True)
class Summary:
    """A sample's mean with its spread.

    Attributes:
        n: Number of values.
        mean: Their mean; nan without values.
        sd: Sample standard deviation (n - 1 in the denominator); nan below two values.
        ci_lo: Lower end of the 95% Student t interval of the mean; nan below two values.
        ci_hi: Its upper end.
    """

    n: int
    mean: float
    sd: float
    ci_lo: float
    ci_hi: float


def summarize(values: Iterable[float]) -> Summary:
    """Mean, sample standard deviation and 95% Student t interval of independent values, one per seed."""
    sample = np.array(list(values), dtype=float)
    n = len(sample)
    mean = float(sample.mean()) if n else math.nan
    if n < 2:
        return Summary(n, mean, math.nan, math.nan, math.nan)
    sd = float(sample.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def completed(frame: pd.DataFrame, metric: str) -> pd.Series:
    """The metric's last-epoch values of the completed trials."""
    if metric not in frame:  # nothing has been committed yet
        return pd.Series(dtype=float)
    return frame.loc[frame["status"] == COMPLETED, metric].dropna().astype(float)


def group(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row per arm, in the order of the plan.

    Args:
        frame: `ledger.frame(..., per="trial")`.
        metric: The column to summarise.

    Returns:
        Columns `arm optimizer faithful`, the factors, `n mean sd ci_lo ci_hi` over completed trials, `planned` and the
        number of trials with each other status (`diverged oom failed "in flight" "not run"`), the mean `time/train_s`,
        and `best`, the mean over trials of the best epoch's value: chosen on the test set, so no result.
    """
    rows, described = [], {SECONDS: SECONDS, BEST: f"best/{metric}"}
    for _, trials in frame.groupby("arm", sort=False):
        counts = {status: list(trials["status"]).count(status) for status in UNFINISHED}
        rows.append(
            trials.iloc[0][["arm", "optimizer", "faithful", *factors(frame)]].to_dict()
            | asdict(summarize(completed(trials, metric)))
            | {"planned": len(trials), **counts}
            | {name: summarize(completed(trials, column)).mean for name, column in described.items()}
        )
    table = pd.DataFrame(rows)
    return table.assign(**{name: table[name].convert_dtypes() for name in factors(frame)})
