"""The invariants that must hold after every fault.

I1  Each planned trial has one folder and a terminal status.
I2  The committed epochs of a trial are 0, 1, 2 ... in order, without gaps or repetitions.
I3  Each existing checkpoint matches its manifest.
I4  The numbers of a trial are bitwise equal to those of the uninterrupted run.
I5  MLflow has one run for each trial, each metric once for each epoch, and the values of the folder
    (`server.py`).
I6  No temporary files or processes remain, and the lock is free.
I7  The exit code and the last line of a command are those of its documentation (`kills.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from studies.harness.command import lock
from trainables import checkpoints
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import COMPLETED, StoreError, TrialStore, trial_folders

Numbers = list[dict[str, float]]
MEASURED = ("time/", "mem/", "system/", "diag/overhead")


def numbers(folder: Path) -> Numbers:
    """Return the metrics of a trial's epochs that the seed determines, without times and memory."""
    lines = read_lines(folder / "epochs.jsonl")
    return [
        {k: v for k, v in line["metrics"].items() if not k.startswith(MEASURED)} for line in lines
    ]


def finished(
    root: Path, planned: Iterable[TrialConfig], reference: Mapping[str, Numbers]
) -> list[str]:
    """Return the violations in an output folder whose trials should all be completed.

    Args:
        root: The output folder.
        planned: The planned trials.
        reference: The numbers of the uninterrupted run by trial key.
    """
    planned = list(planned)
    names = {config.trial_key[:16] for config in planned}
    unplanned = {folder.name for folder in trial_folders(root)} - names
    violations = [f"I1: {name} was not planned" for name in sorted(unplanned)]
    for config in planned:
        status = TrialStore(root, config).status() or {}
        if status.get("status") != COMPLETED:
            violations.append(f"I1: {config.trial_key[:16]} has the status {status}")
        violations += unfinished(root, config, reference[config.trial_key], config.epochs)
    for path in root.rglob("*.tmp"):
        violations.append(f"I6: {path.relative_to(root)} was not removed")
    try:
        with lock.exclusive(root):
            pass
    except StoreError as error:
        violations.append(f"I6: {error}")
    return violations


def unfinished(root: Path, config: TrialConfig, reference: Numbers, at_least: int = 0) -> list[str]:
    """Return the violations in the folder of a trial that may be unfinished.

    Args:
        root: The output folder.
        config: The trial.
        reference: The numbers of the uninterrupted run.
        at_least: The number of epochs that must be committed.
    """
    store = TrialStore(root, config)
    name, violations = config.trial_key[:16], []
    epochs = [line["epoch"] for line in store.epochs()]
    if epochs != list(range(len(epochs))) or len(epochs) < at_least:
        violations.append(f"I2: {name} has the epochs {epochs}; {at_least} were committed")
    actual = numbers(store.folder)
    if actual != (expected := reference[: len(actual)]):
        violations.append(f"I4: {name} has {actual}, not {expected}")
    return violations


def damaged(store: TrialStore) -> list[str]:
    """Return one line for each damaged checkpoint of a trial, which violates I3.

    Checkpoints that a fault has damaged on purpose must be excluded by the caller. Only the
    last two checkpoints of an unfinished trial are read, because a kill may have interrupted the
    removal of older checkpoints.
    """
    if store.status():
        return []
    violations = []
    for path in checkpoints.list_checkpoints(store.folder)[-2:]:
        try:
            checkpoints.read(path, store.config.trial_key)
        except checkpoints.Damaged as problem:
            violations.append(f"I3: {store.folder.name}/{path.name}: {problem}")
    return violations
