"""The status of trials, read from their folders without pandas."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from studies.harness.design.arms import Trial
from trainables.store import (
    COMPLETED,
    DIVERGED,
    FAILED,
    OOM,
    StoreError,
    read_config,
    read_status,
    trial_folder,
    trial_folders,
)

IN_FLIGHT, NOT_RUN = "in flight", "not run"
LOST = (DIVERGED, OOM, FAILED)  # the trial ended without a result
UNFINISHED = (*LOST, IN_FLIGHT, NOT_RUN)
STATUSES = (COMPLETED, *UNFINISHED)


def missing(trials: Sequence[Trial], root: Path, retry: Collection[str] = ()) -> list[Trial]:
    """Return the trials to run, each key once.

    These are the trials without a terminal status, and those whose status is in `retry`.

    Raises:
        StoreError: A folder was written by a newer version.
    """
    unique: dict[str, Trial] = {}
    for trial in trials:
        unique.setdefault(trial.config.trial_key, trial)
    todo = {IN_FLIGHT, NOT_RUN, *retry}
    return [
        trial
        for key, trial in unique.items()
        if progress(trial_folder(root, key))["status"] in todo
    ]


def progress(folder: Path) -> dict[str, Any]:
    """Return the `status` of a trial folder and the `reason` for its end.

    Raises:
        StoreError: The folder was written by a newer version.
    """
    # The file is missing while a driver creates the folder, or if the driver was killed then.
    if not (folder / "config.json").exists():
        return {"status": NOT_RUN, "reason": None}
    read_config(folder)  # raises StoreError if a newer version wrote the folder
    document = read_status(folder)
    if document is None:
        started = (folder / "attempts.jsonl").exists()  # a worker writes this file before it trains
        return {"status": IN_FLIGHT if started else NOT_RUN, "reason": None}
    return {"status": document["status"], "reason": reason(document)}


def has_begun(trial: Trial, root: Path) -> bool:
    """Return True if a worker has started the trial."""
    folder = trial_folder(root, trial.config.trial_key)
    return (folder / "attempts.jsonl").exists() or (folder / "status.json").exists()


def status_files(trials: Sequence[Trial], root: Path) -> list[str]:
    """Return the status files of the ended trials, as paths relative to the output folder."""
    folders = {trial_folder(root, trial.config.trial_key) for trial in trials}
    files = [folder / "status.json" for folder in folders]
    return sorted(str(file.relative_to(root)) for file in files if file.exists())


def trained_seeds(root: Path) -> dict[str, set[int]]:
    """Return the seeds of all trials in an output folder, by workload.

    Folders that this version cannot read are omitted.
    """
    seeds: dict[str, set[int]] = {}
    for folder in trial_folders(root):
        with suppress(StoreError, KeyError, TypeError):
            config = read_config(folder)["config"]
            seeds.setdefault(config["workload"], set()).add(config["seed"])
    return seeds


def reason(status: Mapping[str, Any]) -> str | None:
    """Return the reason for a trial's end from its `status.json`.

    It is the entry `reason`, or else all other details as `name=value`; None if there are none.
    """
    details = {name: value for name, value in status.items() if name not in {"status", "time"}}
    return (
        details.get("reason")
        or ", ".join(f"{name}={value}" for name, value in details.items())
        or None
    )
