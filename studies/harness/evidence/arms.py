"""The trials of each arm: means, values by seed, curves.

Means are over the finite values of completed trials; all other trials are counted. In the values by
seed, which decisions use, a trial that ended without a result has the worst possible value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.evidence.ledger import factors
from studies.harness.evidence.metrics import bounds, higher_is_better
from studies.harness.evidence.metrics import step as step_of
from studies.harness.evidence.status import COMPLETED, LOST, OOM, STATUSES, UNFINISHED
from studies.harness.published.verdicts import Measured, flat
from studies.harness.statistics.intervals import Summary, effective_bounds, mean_interval, summarize
from studies.harness.statistics.paired import moments

SECONDS = "time/train_s"
BEST = "best"
FAR = 5.0  # a trial at this distance from the median of its arm, in spreads, is an outlier


def completed(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Return the finite last-epoch values of a metric of the completed trials."""
    if metric not in frame:  # no epoch is committed yet
        return pd.Series(dtype=float)
    values = frame.loc[frame["status"] == COMPLETED, metric].astype(float)
    return values[np.isfinite(values)]


def worst(metric: str) -> float:
    """Return the worst possible value of a metric, which is infinite."""
    return -math.inf if higher_is_better(metric) else math.inf


def finite(values: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `by_seed` with nan in place of the infinite values."""
    return values.where(np.isfinite(values))


def group(frame: pd.DataFrame, metric: str, step: float = 0.0) -> pd.DataFrame:
    """Return one row for each arm of a `ledger.frame(..., per="trial")`, in the order of the plan.

    `step` is the grid of the metric (`metrics.step`); near the end of its range, the interval of
    the mean takes it into account (`statistics.intervals.summarize`).

    Columns: `arm optimizer as_released`; the factors; `n mean sd ci_lo ci_hi` of the metric over
    completed trials; `widened`, True if the interval is extended to the exact one; `planned` and
    the number of trials with each other status (`diverged oom failed "in flight" "not run"`); the
    mean of `time/train_s`; and `best`, the mean over trials of the best epoch's value. `best` is
    not a result, because it is selected on the test set.
    """
    rows, averaged = [], {SECONDS: SECONDS, BEST: f"best/{metric}"}
    for _, trials in frame.groupby("arm", sort=False):
        counts = {status: list(trials["status"]).count(status) for status in UNFINISHED}
        values = completed(trials, metric)
        summary = summarize(values, step, bounds(metric))
        rows.append(
            trials.iloc[0][["arm", "optimizer", "as_released", *factors(frame)]].to_dict()
            | asdict(summary)
            | {"widened": _ends(summary) != _ends(summarize(values, bounds=bounds(metric)))}
            | {"planned": len(trials), **counts}
            | {name: summarize(completed(trials, column)).mean for name, column in averaged.items()}
        )
    table = pd.DataFrame(rows)
    return table.assign(**{name: table[name].convert_dtypes() for name in factors(frame)})


def _ends(summary: Summary) -> tuple[float, float] | None:
    """Return the interval of a summary, or None if it has none."""
    return None if math.isnan(summary.ci_lo) else (summary.ci_lo, summary.ci_hi)


def by_seed(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the values of a metric: one row per seed, one column per arm, in the plan's order.

    A trial that ended without a result has the `worst` value. nan is a trial that has not ended, or
    that has not measured the metric.
    """
    known = frame[metric].astype(float) if metric in frame else pd.Series(math.nan, frame.index)
    values = known.where(frame["status"] == COMPLETED).mask(
        frame["status"].isin(LOST), worst(metric)
    )
    table = frame.assign(value=values).pivot(index="seed", columns="arm", values="value")
    return table.reindex(columns=list(dict.fromkeys(frame["arm"]))).astype(float)


def skewed(values: pd.DataFrame, step: float = 0.0) -> list[str]:
    """Return the labels of the arms with a completed trial that is far from the arm's other trials.

    Its distance from the arm's median is more than `FAR` times the largest of three spreads: the
    arm's median absolute deviation, the lower median of the standard deviations of all arms, and
    the step of the metric. Of tables of normal values, at most 6% have such an arm (3 to 30 seeds,
    2 to 36 arms). Arms with fewer than three completed trials are omitted.

    Args:
        values: The table `by_seed`.
        step: The grid of the metric (`metrics.step`).
    """
    table = finite(values)
    distances = (table - table.median()).abs()
    typical = table.std().quantile(0.5, interpolation="lower")
    spreads = distances.median().clip(lower=max(typical, step))
    outlying = (distances.max() > FAR * spreads) & (table.count() >= 3)
    return list(table.columns[outlying])


def mean_curves(by_epoch: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Return the means of each arm over the trials of a `ledger.frame(..., per="epoch")`.

    Each table has the columns `n mean sd ci_lo ci_hi` and is indexed by epoch, starting at 0. The
    interval is nan below two trials. Infinite values are omitted.
    """
    curves = {}
    for arm, rows in by_epoch.groupby("arm", sort=False):
        table: Any = rows.pivot(index="epoch", columns="seed", values=metric)
        sample = finite(table.astype(float)).to_numpy()
        n, mean, sd = moments(sample)
        low, high = mean_interval(n, mean, sd, effective_bounds(sample, bounds(metric)))
        values = {"n": n, "mean": mean, "sd": sd, "ci_lo": low, "ci_hi": high}
        curves[str(arm)] = pd.DataFrame(values, index=table.index)
    return curves


def measured(trials: Sequence[Trial], frame: pd.DataFrame, metric: str) -> list[Measured]:
    """Return the results of the arms of a plan, to compare them with published results.

    `frame` is the `ledger.frame(..., per="trial")` of the plan.
    """
    first = {trial.config.group_key: trial for trial in reversed(trials)}
    groups = []
    for key, part in frame.groupby("group_key", sort=False):
        arm, config = first[str(key)]
        values = completed(part, metric)
        results = dict(zip(part.loc[values.index, "seed"], values, strict=True))
        statuses = list(part["status"])
        groups.append(
            Measured(
                label=arm.label,
                optimizer=arm.optimizer,
                settings=flat(config.to_dict()),
                metric=metric,
                values=results,
                step=step_of(metric, config.workload),
                failures=sum(status in LOST for status in statuses),
                oom=statuses.count(OOM),
            )
        )
    return groups


def metrics(frame: pd.DataFrame, arms: pd.DataFrame) -> dict[str, float]:
    """Return summary metrics by name: the trials by status, and each arm's mean, SD and interval.

    `arms` is the `group` of those trials in `frame` whose means are results; it may be empty.
    """
    counts = {f"trials/{status}": float(list(frame["status"]).count(status)) for status in STATUSES}
    values = {
        f"{name}/{re.sub(r'[^A-Za-z0-9_./:-]', '.', arm['arm'])}": float(arm[name])
        for arm in arms.to_dict("records")
        for name in ("mean", "sd", "ci_lo", "ci_hi", "n")
    }
    return {"trials/planned": float(len(frame)), **counts, **values}
