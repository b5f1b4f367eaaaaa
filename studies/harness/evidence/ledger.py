"""Tables of trial folders: one row per planned trial or per committed epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from studies.harness.design.arms import Trial, spelled
from studies.harness.design.configurations import configuration_of
from studies.harness.design.options import default_root
from studies.harness.evidence import status
from studies.harness.evidence.metrics import higher_is_better
from trainables.files import read_lines
from trainables.store import trial_folder

KEYS = ("seed", "trial_key", "group_key", "as_released")
PROVENANCE = ("torch", "device", "git_sha")
PROGRESS = ("status", "reason", "committed")
RESERVED = ("arm", "optimizer", *KEYS, *PROGRESS, *PROVENANCE, "epoch", "time")
"""The columns that are no settings; a hyperparameter with such a name has a prefix."""


def frame(
    plan: Any,
    root: Path | str | None = None,
    per: Literal["trial", "epoch"] = "trial",
    seeds: int | None = None,
    *,
    configuration: bool = False,
) -> pd.DataFrame:
    """Return the contents of a plan's trial folders as a table, in the order of the plan.

    Args:
        plan: Trials, or an object whose `trials()` returns them, such as a study.
        root: The output folder; `$PRECOND_OUT` or `outputs` if None.
        per: `trial` for one row per planned trial, with the metrics of its last committed epoch
            and, as `best/test/...`, the best value over epochs of each test metric. `epoch` for one
            row per committed epoch, with `epoch` and `time` (Unix seconds).
        seeds: The number of seeds of a study, as `--seeds`; its default number if None.
        configuration: True to add a column for each hyperparameter and training setting, also for
            those that do not vary.

    Returns:
        A table with the columns `arm optimizer`; one column per factor; `seed trial_key group_key
        as_released`; the configuration; `status reason committed` (number of epochs); the metrics
        under their names; and `torch device git_sha` of the last attempt.

    Raises:
        StoreError: A folder was written by a newer version.
        ValueError: `per` is neither `trial` nor `epoch`.
    """
    if per not in ("trial", "epoch"):
        raise ValueError(f'per = "{per}": must be "trial" or "epoch"')
    root = default_root() if root is None else Path(root)
    plan = plan if seeds is None else replace(plan, seeds=seeds)
    trials: Sequence[Trial] = getattr(plan, "trials", lambda: plan)()
    names = list(dict.fromkeys(name for trial in trials for name in trial.arm.factors))
    rows, values_of, metrics = [], [], {}
    for trial in trials:
        identity, measured, source = _contents(trial, root, per)
        rows += [{**identity, **values, **source} for values in measured]
        if configuration:
            values = configuration_of(trial.config.to_dict(), RESERVED)
            values_of += [values] * len(measured)
        metrics.update(dict.fromkeys(name for values in measured for name in values))
    known = ["arm", "optimizer", *names, *KEYS, *PROGRESS]
    table = pd.DataFrame(rows, columns=[*known, *metrics, *PROVENANCE])
    # With nullable types, integer levels stay integers in a column with missing values.
    table = table.assign(**{name: table[name].convert_dtypes() for name in names})
    return _with_configurations(table, values_of) if configuration else table


def _contents(
    trial: Trial, root: Path, per: Literal["trial", "epoch"]
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Return the columns before the metrics, the metrics of each row, and the columns after them."""
    arm, config = trial
    folder = trial_folder(root, config.trial_key)
    # Read the status before the epochs, so that a completed trial has all of its epochs.
    progress = status.progress(folder)
    lines, attempts = read_lines(folder / "epochs.jsonl"), read_lines(folder / "attempts.jsonl")
    identity = {
        "arm": arm.label,
        "optimizer": arm.optimizer,
        **{name: spelled(arm.overrides[name]) for name in arm.factors},
        "seed": config.seed,
        "trial_key": config.trial_key,
        "group_key": config.group_key,
        "as_released": arm.as_released,
        **progress,
        "committed": len(lines),
    }
    source = {name: attempts[-1].get(name) if attempts else None for name in PROVENANCE}
    if per == "epoch":
        measured = [
            {"epoch": line["epoch"], "time": line["time"], **line["metrics"]} for line in lines
        ]
    else:
        measured = [{**lines[-1]["metrics"], **_best(lines)}] if lines else [{}]
    return identity, measured, source


def _with_configurations(
    table: pd.DataFrame, configurations: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Return the table with the configuration of each row; a factor keeps its column."""
    names = dict.fromkeys(name for values in configurations for name in values)
    columns = {
        name: _column([values.get(name) for values in configurations], table.index)
        for name in names
    }
    order = list(table.columns)
    place = order.index("status")
    order[place:place] = [name for name in names if name not in order]
    return table.assign(**columns).reindex(columns=order)


def _column(values: Sequence[Any], index: pd.Index) -> pd.Series:
    """Return values as a column; integers and booleans keep their type if values are missing."""
    values = [tuple(value) if isinstance(value, list) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    nullable = {int: "Int64", bool: "boolean"}
    dtype: Any = nullable.get(*kinds) if None in values and len(kinds) == 1 else None
    return pd.Series(values, index=index, dtype=dtype)


def factors(frame: pd.DataFrame) -> list[str]:
    """Return the names of the factor columns of a `frame`."""
    columns = list(frame.columns)
    return columns[columns.index("optimizer") + 1 : columns.index("seed")]


def series(row: Mapping[Any, Any], factor: str, names: Sequence[str]) -> str:
    """Return an arm's variant and its levels of the other factors: `as-released, shift=tropp`.

    Arms of one optimizer with the same text form a series over the levels of `factor`.

    Args:
        row: A row of a `frame` or of `arms.group`.
        factor: The factor that varies within the series.
        names: All `factors`.
    """
    others = [f"{name}={row[name]}" for name in names if name != factor and not pd.isna(row[name])]
    return ", ".join([*(["as-released"] if row["as_released"] else []), *others])


def _best(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the best value over epochs of each test metric of the last epoch."""
    best = {}
    for name in lines[-1]["metrics"]:
        if name.startswith("test/"):
            values = [line["metrics"].get(name, math.nan) for line in lines]
            finite = [value for value in values if math.isfinite(value)]
            best[f"best/{name}"] = (max if higher_is_better(name) else min)(
                finite, default=math.nan
            )
    return best
