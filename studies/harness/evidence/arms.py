"""Trials by arm: means, values by seed, curves.

Means are over completed trials only; all other trials are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.evidence.ledger import factors
from studies.harness.evidence.status import COMPLETED, DIVERGED, FAILED, STATUSES, UNFINISHED
from studies.harness.published.verdicts import Measured, flat
from studies.harness.statistics.intervals import half_width, summarize
from studies.harness.statistics.paired import moments

SECONDS = "time/train_s"
BEST = "best"


def completed(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Return the last-epoch values of a metric of the completed trials."""
    if metric not in frame:  # no epoch is committed yet
        return pd.Series(dtype=float)
    return frame.loc[frame["status"] == COMPLETED, metric].dropna().astype(float)


def group(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row for each arm of a `ledger.frame(..., per="trial")`, in the order of the plan.

    Columns: `arm optimizer as_released`; the factors; `n mean sd ci_lo ci_hi` of the metric over
    completed trials; `planned` and the number of trials with each other status (`diverged oom
    failed "in flight" "not run"`); the mean of `time/train_s`; and `best`, the mean over trials of
    the best epoch's value. `best` is not a result, because it is selected on the test set.
    """
    rows, averaged = [], {SECONDS: SECONDS, BEST: f"best/{metric}"}
    for _, trials in frame.groupby("arm", sort=False):
        counts = {status: list(trials["status"]).count(status) for status in UNFINISHED}
        rows.append(
            trials.iloc[0][["arm", "optimizer", "as_released", *factors(frame)]].to_dict()
            | asdict(summarize(completed(trials, metric)))
            | {"planned": len(trials), **counts}
            | {name: summarize(completed(trials, column)).mean for name, column in averaged.items()}
        )
    table = pd.DataFrame(rows)
    return table.assign(**{name: table[name].convert_dtypes() for name in factors(frame)})


def by_seed(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the completed trials' values: one row per seed, one column per arm; nan if missing."""
    table = frame.assign(value=completed(frame, metric)).pivot(
        index="seed", columns="arm", values="value"
    )
    return table.reindex(columns=list(dict.fromkeys(frame["arm"]))).astype(float)


def mean_curves(by_epoch: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Return the means of each arm over the trials of a `ledger.frame(..., per="epoch")`.

    Each table has the columns `n mean sd ci_lo ci_hi` and is indexed by epoch, starting at 0. The
    interval is nan below two trials.
    """
    curves = {}
    for arm, rows in by_epoch.groupby("arm", sort=False):
        table: Any = rows.pivot(index="epoch", columns="seed", values=metric)
        n, mean, sd = moments(table.to_numpy(dtype=float))
        half = half_width(n, sd)
        values = {"n": n, "mean": mean, "sd": sd, "ci_lo": mean - half, "ci_hi": mean + half}
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
        failures = sum(status in (DIVERGED, FAILED) for status in part["status"])
        identity = {
            "label": arm.label,
            "optimizer": arm.optimizer,
            "settings": flat(config.to_dict()),
        }
        groups.append(Measured(**identity, metric=metric, values=results, failures=failures))
    return groups


def metrics(frame: pd.DataFrame, arms: pd.DataFrame) -> dict[str, float]:
    """Return summary metrics by name: trials by status, and each arm's mean with its interval.

    `arms` is the `group` of those trials in `frame` whose means are results; it may be empty.
    """
    counts = {f"trials/{status}": float(list(frame["status"]).count(status)) for status in STATUSES}
    values = {
        f"{name}/{re.sub(r'[^A-Za-z0-9_./:-]', '.', arm['arm'])}": float(arm[name])
        for arm in arms.to_dict("records")
        for name in ("mean", "sd", "ci_lo", "ci_hi", "n")
    }
    return {"trials/planned": float(len(frame)), **counts, **values}
