"""Reads trial folders into tables: one row per planned trial, or per committed epoch. Writes nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from studies.harness.kinds.study.study import Study, Trial
from trainables.files import read_lines
from trainables.store import COMPLETED, DIVERGED, FAILED, OOM, read_config, read_status, trial_folder

IN_FLIGHT, NOT_RUN = "in flight", "not run"
STATUSES = (COMPLETED, DIVERGED, OOM, FAILED, IN_FLIGHT, NOT_RUN)
PROVENANCE = ("torch", "device", "git_sha")


def default_root() -> Path:
    """The output folder: `$PRECOND_OUT`, or `outputs` below the current directory."""
    return Path(os.environ.get("PRECOND_OUT") or "outputs")


def report_folder(root: Path, name: str, workload: str) -> Path:
    """Where the report of a study or a probe on a workload goes."""
    return root / "reports" / name / workload.replace("/", "-")


def frame(
    plan: Study | Sequence[Trial], root: Path | None = None, per: Literal["trial", "epoch"] = "trial"
) -> pd.DataFrame:
    """What the folders say about a plan, in the order of the plan.

    Args:
        plan: A study (its default trials) or trials.
        root: The output folder; `default_root()` when None.
        per: `trial` gives each planned trial one row with the metrics of its last committed epoch, and the best epoch's
            of each test metric as `best/test/...`; `epoch` gives each committed epoch one row, with `epoch` and `time`
            (Unix seconds).

    Returns:
        Columns `arm optimizer`, one per factor that any arm varies, `seed trial_key group_key faithful status reason
        committed` (epochs), then the metrics under their own names, then the last attempt's `torch device git_sha`.

    Raises:
        StoreError: A folder was written by a newer version.
    """
    root = default_root() if root is None else root
    trials = plan.trials() if isinstance(plan, Study) else plan
    names = list(dict.fromkeys(name for trial in trials for name in trial.arm.factors))
    rows, metrics = [], {}
    for trial in trials:
        folder = trial_folder(root, trial.config.trial_key)
        progress = _progress(folder)  # before the epochs: a trial that reads as completed then has all of them
        lines = read_lines(folder / "epochs.jsonl")
        identity = {**_identity(trial, names), **progress, "committed": len(lines)}
        source = _provenance(folder)
        if per == "epoch":
            measured = [{"epoch": line["epoch"], "time": line["time"], **line["metrics"]} for line in lines]
        else:
            measured = [{**lines[-1]["metrics"], **_best(lines)}] if lines else [{}]
        rows += [{**identity, **values, **source} for values in measured]
        metrics.update(dict.fromkeys(name for values in measured for name in values))
    known = ["arm", "optimizer", *names, "seed", "trial_key", "group_key", "faithful", "status", "reason", "committed"]
    table = pd.DataFrame(rows, columns=[*known, *metrics, *PROVENANCE])
    # Nullable types: an integer level stays an integer beside arms that lack the factor.
    return table.assign(**{name: table[name].convert_dtypes() for name in names})


def factors(frame: pd.DataFrame) -> list[str]:
    """The factor columns of a `frame`: those between `optimizer` and `seed`."""
    columns = list(frame.columns)
    return columns[columns.index("optimizer") + 1 : columns.index("seed")]


def series(row: Mapping[Any, Any], factor: str, names: Sequence[str]) -> str:
    """What an arm shares with its optimizer's other levels of a factor: `faithful`, `shift=tropp`, or nothing.

    Args:
        row: Of a `frame` or of `statistics.group`.
        factor: The one that varies.
        names: All `factors`.
    """
    others = [f"{name}={row[name]}" for name in names if name != factor and not pd.isna(row[name])]
    return ", ".join([*(["faithful"] if row["faithful"] else []), *others])


def missing(trials: Sequence[Trial], root: Path, retry: Collection[str] = ()) -> list[Trial]:
    """The trials still to be run, each key once: no terminal status, or one that is in `retry`."""
    unique: dict[str, Trial] = {}
    for trial in trials:
        unique.setdefault(trial.config.trial_key, trial)
    todo = {IN_FLIGHT, NOT_RUN, *retry}
    return [trial for key, trial in unique.items() if _progress(trial_folder(root, key))["status"] in todo]


def reason(status: Mapping[str, Any]) -> str | None:
    """Why a trial ended as its `status.json` says: the given reason, or its other details as `name=value`."""
    details = {name: value for name, value in status.items() if name not in {"status", "time"}}
    return details.get("reason") or ", ".join(f"{name}={value}" for name, value in details.items()) or None


def _identity(trial: Trial, names: Sequence[str]) -> dict[str, Any]:
    arm, config = trial
    levels = {name: arm.overrides[name] if name in arm.factors else None for name in names}
    keys = {"seed": config.seed, "trial_key": config.trial_key, "group_key": config.group_key}
    return {"arm": arm.label, "optimizer": arm.optimizer, **levels, **keys, "faithful": arm.faithful}


def _progress(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").exists():  # a folder alone: its driver is at this moment, or was killed there
        return {"status": NOT_RUN, "reason": None}
    read_config(folder)  # refuses a folder that a newer version wrote
    document = read_status(folder)
    if document is None:
        return {"status": IN_FLIGHT, "reason": None}
    return {"status": document["status"], "reason": reason(document)}


def _best(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best value over epochs of each test metric of the last one: the largest accuracy, the smallest loss."""
    found = {}
    for name in lines[-1]["metrics"]:
        if name.startswith("test/"):
            values = [line["metrics"].get(name, math.nan) for line in lines]
            finite = [value for value in values if math.isfinite(value)]
            best = max if name.endswith("accuracy") else min
            found[f"best/{name}"] = best(finite, default=math.nan)
    return found


def _provenance(folder: Path) -> dict[str, Any]:
    attempts = read_lines(folder / "attempts.jsonl")
    return {name: attempts[-1].get(name) if attempts else None for name in PROVENANCE}
