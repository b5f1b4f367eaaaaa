"""What must hold after every fault, in the names of the reliability notes (I1 to I6).

I1  each planned trial has one folder and a terminal status
I2  its committed epochs are 0, 1, 2 ... without gap, repetition or disorder
I3  a checkpoint that is still there matches its manifest
I4  its numbers are those of the uninterrupted run, bit for bit
I5  MLflow has one run for each trial, each metric once for each epoch, and the folder's values (`tracking.py`)
I6  nothing half-written is left, and the lock is free
I7  exit code and last line are those promised (`drivers.py`)
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
DESCRIBED = ("time/", "mem/", "system/", "diag/overhead")


def numbers(folder: Path) -> Numbers:
    """The metrics of a trial's epochs that a seed decides: neither seconds nor memory."""
    lines = read_lines(folder / "epochs.jsonl")
    return [
        {k: v for k, v in line["metrics"].items() if not k.startswith(DESCRIBED)} for line in lines
    ]


def finished(
    root: Path, planned: Iterable[TrialConfig], reference: Mapping[str, Numbers]
) -> list[str]:
    """What is wrong with an output folder whose trials should all have completed."""
    planned = list(planned)
    names = {config.trial_key[:16] for config in planned}
    extra = {folder.name for folder in trial_folders(root)} - names
    wrong = [f"I1: {name} was never planned" for name in sorted(extra)]
    for config in planned:
        status = TrialStore(root, config).status() or {}
        if status.get("status") != COMPLETED:
            wrong.append(f"I1: {config.trial_key[:16]} has the status {status}")
        wrong += unfinished(root, config, reference[config.trial_key], config.epochs)
    wrong += [f"I6: {path.relative_to(root)} is left" for path in root.rglob("*.tmp")]
    try:
        with lock.exclusive(root):
            pass
    except StoreError as error:
        wrong.append(f"I6: {error}")
    return wrong


def unfinished(root: Path, config: TrialConfig, reference: Numbers, at_least: int = 0) -> list[str]:
    """What is wrong with one trial's folder at any moment; `at_least` epochs were committed before."""
    store = TrialStore(root, config)
    name, wrong = config.trial_key[:16], []
    epochs = [line["epoch"] for line in store.epochs()]
    if epochs != list(range(len(epochs))) or len(epochs) < at_least:
        wrong.append(f"I2: {name} has the epochs {epochs}, {at_least} were committed")
    if (found := numbers(store.folder)) != reference[: len(found)]:
        wrong.append(f"I4: {name} has {found}, not {reference[: len(found)]}")
    return wrong


def damaged(store: TrialStore) -> list[str]:
    """What is wrong with the checkpoints of a trial that nobody has damaged (I3).

    With the last two of a trial in flight: of the others a kill may have left half, while they were removed.
    """
    wrong, kept = [], [] if store.status() else checkpoints.list_checkpoints(store.folder)[-2:]
    for path in kept:
        try:
            checkpoints.read(path, store.config.trial_key)
        except checkpoints.Damaged as problem:
            wrong.append(f"I3: {store.folder.name}/{path.name}: {problem}")
    return wrong
