"""Check a trial folder, and decide which of several folders of a trial is kept.

A trial is deterministic: two folders of one trial contain the same metrics, except times and
memory. The status decides first: a result (completed or diverged) replaces a trial that failed or
ran out of memory, which replaces a trial in flight. Of trials with the same rank, the one with more
committed epochs is kept, then the one with more rows of diagnostics, then the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precond.counts import counted
from studies.harness.transfer.decision import Conflict, Decision
from trainables import checkpoints
from trainables.config import TrialConfig
from trainables.files import StoreError, read_lines
from trainables.store import COMPLETED, DIVERGED, FAILED, OOM, read_config, read_status

RANKS = {COMPLETED: 2, DIVERGED: 2, OOM: 1, FAILED: 1, None: 0}
MEASURED = ("time/", "mem/")
"""The first parts of the names of metrics that differ between two runs of a trial."""
MISSING = "(absent)"


@dataclass(frozen=True)
class TrialFolder:
    """The values in a trial folder that a merge compares.

    Attributes:
        path: The folder.
        key: The trial's key, 64 hexadecimal digits.
        config: The configuration, as in `config.json`.
        status: The terminal status, or None.
        epochs: The metrics of the committed epochs, without times and memory.
        committed: The number of epochs that a worker does not train again.
        layers: The number of rows of diagnostics.
    """

    path: Path
    key: str
    config: Mapping[str, Any]
    status: str | None
    epochs: Sequence[Mapping[str, Any]]
    committed: int
    layers: int

    @property
    def rank(self) -> tuple[int, int, int]:
        """The order of the folders of a trial; the highest is kept."""
        return RANKS[self.status], self.committed, self.layers

    @property
    def state(self) -> str:
        """The status and the number of committed epochs, for messages."""
        return f"{self.status or 'in flight'}, {counted(self.committed, 'epoch')}"


def read(path: Path) -> TrialFolder:
    """Return the content of a trial folder after a check of its files and checkpoints.

    Raises:
        StoreError: The folder is damaged, or a newer version wrote it.
    """
    try:
        document = read_config(path)
        key, config = document["key"], document["config"]
        actual = TrialConfig.from_dict(config).trial_key
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, "config.json is incomplete") from error
    if key != actual or path.name != key[:16]:
        raise _damaged(path, "config.json does not belong to the key in its name")
    state = _status(path)
    lines, layers = read_lines(path / "epochs.jsonl"), read_lines(path / "diagnostics.jsonl")
    read_lines(path / "attempts.jsonl")
    numbers = [line.get("epoch") for line in lines]
    ends_early = state == COMPLETED and len(lines) != config["epochs"]
    if numbers != [*range(len(lines))] or ends_early:
        raise _damaged(path, f"epochs.jsonl lacks lines of {counted(config['epochs'], 'epoch')}")
    committed = max([len(lines), *(epoch + 1 for epoch in _checkpoints(path, key))])
    epochs = [_compared(line.get("metrics", {})) for line in lines]
    return TrialFolder(path, key, config, state, epochs, committed, len(layers))


def _status(path: Path) -> str | None:
    document = read_status(path)
    state = None if document is None else document.get("status", MISSING)
    if state not in RANKS:
        raise _damaged(path, f'status.json contains the status "{state}"')
    return state


def _checkpoints(path: Path, key: str) -> Iterable[int]:
    """Yield the epochs of a trial folder's checkpoints after a comparison of their hashes."""
    for checkpoint in checkpoints.list_checkpoints(path):
        try:
            checkpoints.verify(checkpoint, key)
        except (checkpoints.Damaged, OSError) as error:
            raise _damaged(checkpoint, str(error)) from error
        yield checkpoints.epoch_of(checkpoint)


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path} is damaged ({reason}): move it away, and merge the rest")


def _compared(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith(MEASURED)}


def decide(paths: Sequence[Path]) -> Decision:
    """Return the trial folder to keep. The first path is that in the merged folder if it exists.

    Raises:
        StoreError: A folder is damaged, or a newer version wrote it.
        Conflict: Two trials have ended with different results.
    """
    folders = [read(path) for path in paths]
    best = max(folders, key=lambda folder: folder.rank)
    for other in folders:
        if difference := _difference(best, other):
            places = f"{best.path} ({best.state}) and {other.path} ({other.state})"
            raise Conflict(f"{places} differ: {difference}", best.key[:16], best.config)
    others = [folder.state for folder in folders if folder.rank != best.rank]
    reason = f"{best.state}, instead of {' and '.join(others)}" if others else ""
    return Decision(best.path, reason=reason)


def _difference(best: TrialFolder, other: TrialFolder) -> str:
    """Return the first difference that prevents a choice; empty if there is none."""
    if best.key != other.key:
        return "they are trials whose keys have the same first 16 digits"
    if not (RANKS[best.status] and RANKS[other.status]):
        return ""
    for epoch, (left, right) in enumerate(zip(best.epochs, other.epochs, strict=False)):
        for name in {**left, **right}:
            values = left.get(name, MISSING), right.get(name, MISSING)
            if json.dumps(values[0]) != json.dumps(values[1]):  # NaN is equal to NaN
                return f"{name} of epoch {epoch} is {values[0]} and {values[1]}"
    results = RANKS[best.status] == RANKS[other.status] == RANKS[COMPLETED]
    if results and best.status != other.status:
        return f"the status is {best.status} and {other.status}"
    if results and len(best.epochs) != len(other.epochs):
        return f"the number of epochs is {len(best.epochs)} and {len(other.epochs)}"
    return ""
