"""The trial folder, which contains the complete state of a trial.

    outputs/trials/<first 16 hexadecimal digits of the key>/
        config.json            schema, full key, resolved configuration
        epochs.jsonl           one line per committed epoch
        diagnostics.jsonl      one line per committed epoch and layer, if diagnostics are on
        checkpoint-<epoch>/    state.pt and manifest.json, which contains its SHA-256
        attempts.jsonl         one line per worker that opened the folder, with its provenance
        log.txt                tracebacks and other messages
        status.json            terminal status: completed | diverged | oom | failed
        quarantine/            damaged checkpoints

The driver, which is the process of a study's command, writes config.json once. Workers write all
other files. The last two checkpoints are kept until the trial ends.

A commit writes a checkpoint to a temporary folder, flushes it, renames it, and only then appends
the epochs' lines. If the worker is killed at any moment, the folder contains the old state or the
new state.

`outputs/.lock` contains a generation number, which each new driver increments and passes to its
workers. Before a worker begins, commits or finishes a trial, it compares its number with the file.
A worker of an earlier driver therefore stops without writing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables import checkpoints
from trainables.config import SCHEMA, TrialConfig
from trainables.files import (
    StoreError,
    append_lines,
    parse,
    read_lines,
    remove,
    repair_tail,
    write_atomically,
)

COMPLETED, DIVERGED, OOM, FAILED = "completed", "diverged", "oom", "failed"
MAX_LOST_WORKERS = 3  # a trial fails after one driver loses this many without a commit
Nodes = Collection[str] | None  # IDs of the cluster's nodes that are alive; None without a cluster


class FencedError(StoreError):
    """Another driver has locked the output folder; this worker must stop without writing."""


class TrialStore:
    """The folder of a trial.

    Args:
        root: The output folder, which contains `trials/` and the driver's `.lock`.
        config: The trial.
        generation: The driver's generation number; None if the trial runs without a driver.
        nodes: The IDs of the cluster's nodes that are alive; None without a cluster.
    """

    def __init__(
        self,
        root: Path | str,
        config: TrialConfig,
        generation: int | None = None,
        nodes: Nodes = None,
    ):
        self.root, self.config = Path(root), config
        self.generation, self.nodes = generation, nodes
        self.folder = trial_folder(self.root, config.trial_key)
        self._pending: list[dict[str, Any]] = []
        self._layers: list[dict[str, Any]] = []

    @classmethod
    def open(
        cls, root: Path | str, key: str, generation: int | None = None, nodes: Nodes = None
    ) -> TrialStore:
        """Return the store of a trial whose `config.json` the driver has written.

        Raises:
            StoreError: The folder does not exist, or a newer version wrote it.
        """
        config = TrialConfig.from_dict(read_config(trial_folder(Path(root), key))["config"])
        return cls(root, config, generation, nodes)

    def create(self) -> None:
        """Write `config.json` unless it exists; the driver calls this before it submits the trial.

        Raises:
            StoreError: The folder contains another trial, or a newer version wrote it.
        """
        path = self.folder / "config.json"
        if path.exists():
            if read_config(self.folder)["key"] != self.config.trial_key:
                reason = "contains another trial whose key has the same first 16 digits"
                raise StoreError(f"{self.folder} {reason}: move the folder away")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {"schema": SCHEMA, "key": self.config.trial_key, "config": self.config.to_dict()}
        write_atomically(path, json.dumps(document, indent=1).encode())

    def status(self) -> dict[str, Any] | None:
        """Return the terminal status with its details, or None if the trial has not ended."""
        return read_status(self.folder)

    def epochs(self) -> list[dict[str, Any]]:
        """Return the records of the committed epochs, in order."""
        return read_lines(self.folder / "epochs.jsonl")

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Return (epoch, state) of the newest intact checkpoint, or None if there is none.

        Damaged checkpoints are moved to `quarantine/`. If the worker that wrote the checkpoint was
        killed before it appended the lines of its epochs, they are appended now.
        """
        for path in reversed(checkpoints.list_checkpoints(self.folder)):
            epoch = checkpoints.epoch_of(path)
            try:
                lines, layers, state = checkpoints.read(path, self.config.trial_key)
                # A power failure may have removed more lines than those of the last commit.
                if lines and lines[0]["epoch"] > len(self.epochs()):
                    raise checkpoints.Damaged("the lines of earlier epochs are missing")
            except checkpoints.Damaged as problem:
                advice = "the previous checkpoint is used, if there is one"
                self.log(f"the checkpoint of epoch {epoch} is damaged ({problem}); {advice}")
                quarantine = self.folder / "quarantine"
                quarantine.mkdir(exist_ok=True)
                path.rename(quarantine / f"{path.name}-{time.time_ns()}")
                continue
            self._pending, self._layers = lines, layers
            self._append_pending()
            return epoch, state
        return None

    def reopen(self) -> None:
        """Delete the terminal status, so that the trial is trained again.

        It resumes from its last checkpoint if there is one.
        """
        path = self.folder / "status.json"
        if path.exists():
            self.log(f"reopened; the previous status was {path.read_text()}")
            path.unlink()

    def begin(self, provenance: Mapping[str, Any]) -> int:
        """Remove incomplete files of a killed worker, and record this worker's provenance.

        Returns:
            The number of workers of this trial that the driver has lost since the last commit.
            Workers that called `leave`, or that were lost together with their node, are not
            counted, because the trial did not cause the loss.
        """
        self._check_generation()
        for leftover in self.folder.glob("*.tmp"):
            remove(leftover)
        for name in ("epochs", "diagnostics", "attempts"):
            repair_tail(self.folder / f"{name}.jsonl")
        state = {"generation": self.generation, "committed": len(self.epochs())}
        attempts = read_lines(self.folder / "attempts.jsonl")
        append_lines(self.folder / "attempts.jsonl", [{"time": time.time(), **state, **provenance}])
        if self.generation is None:  # without a driver, only a user starts the trial again
            return 0
        lost = [
            attempt
            for attempt in attempts
            if all(attempt[name] == value for name, value in state.items())
            if self.nodes is None or attempt.get("node") in self.nodes
        ]
        # `leave` appends a second line for an attempt, which cancels the first.
        return sum(-1 if "left" in attempt else 1 for attempt in lost)

    def leave(self, reason: str) -> None:
        """Append this worker's attempt again, with the reason why the worker leaves the trial."""
        path = self.folder / "attempts.jsonl"
        append_lines(path, [{**read_lines(path)[-1], "time": time.time(), "left": reason}])

    def record(
        self, epoch: int, metrics: Mapping[str, float], layers: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Record an epoch's metrics and rows of diagnostics; `commit` or `finish` writes them."""
        self._pending.append({"epoch": epoch, "time": time.time(), "metrics": dict(metrics)})
        self._layers += layers

    def commit(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then append the lines of the recorded epochs."""
        self._check_generation()
        checkpoints.write(self.folder, self.config.trial_key, self._pending, self._layers, state)
        self._append_pending()
        for old in checkpoints.list_checkpoints(self.folder)[:-2]:
            remove(old)

    def finish(self, status: str, **details: Any) -> None:
        """Append the recorded epochs, write the terminal status, and delete the checkpoints.

        If the worker is killed before it writes the status, the next worker resumes from the last
        checkpoint. Without a checkpoint, it only writes the status if the lines of all epochs
        exist, and otherwise trains from the first epoch.
        """
        self._check_generation()
        self._append_pending()
        document = {"status": status, "time": time.time(), **details}
        write_atomically(self.folder / "status.json", json.dumps(document).encode())
        for path in checkpoints.list_checkpoints(self.folder):
            remove(path)

    def log(self, message: str) -> None:
        """Append a line to `log.txt`."""
        with open(self.folder / "log.txt", "a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def _append_pending(self) -> None:
        # The diagnostics are appended first, so that each epoch in `epochs.jsonl` has them.
        if self._layers:
            path = self.folder / "diagnostics.jsonl"
            written = {line["epoch"] for line in read_lines(path)}
            append_lines(path, [line for line in self._layers if line["epoch"] not in written])
            self._layers.clear()
        # Epochs that are computed again after a checkpoint was damaged keep their first line.
        committed = len(self.epochs())
        lines = [line for line in self._pending if line["epoch"] >= committed]
        append_lines(self.folder / "epochs.jsonl", lines)
        self._pending.clear()

    def _check_generation(self) -> None:
        if self.generation is None:
            return
        current = lock_generation(self.root)
        if current != self.generation:
            reason = "another driver has locked the output folder"
            generations = f"generation {current}, this worker has {self.generation}"
            raise FencedError(f"{self.root}: {reason} ({generations}); this worker stops")


def trial_folder(root: Path, key: str) -> Path:
    """Return the path of a trial folder: `trials/` and the first 16 digits of the key."""
    return root / "trials" / key[:16]


def trial_folders(root: Path) -> Iterator[Path]:
    """Return the paths of all trial folders of an output folder, sorted by name."""
    return (path.parent for path in sorted((root / "trials").glob("*/config.json")))


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a trial folder's `config.json`: `schema`, `key` and `config`.

    Raises:
        StoreError: The file does not exist, or a newer version wrote it.
    """
    try:
        document = parse((folder / "config.json").read_bytes(), folder / "config.json")
    except OSError as error:
        reason = f"config.json cannot be read ({error.strerror})"
        raise StoreError(f"{folder} is not a trial folder: {reason}") from error
    if document["schema"] > SCHEMA:
        versions = f"has schema {document['schema']}, but this version reads schemas up to {SCHEMA}"
        raise StoreError(f"{folder} {versions}: update precond")
    return document


def read_status(folder: Path) -> dict[str, Any] | None:
    """Return the terminal status in a trial folder with its details, or None."""
    try:
        return parse((folder / "status.json").read_bytes(), folder / "status.json")
    except FileNotFoundError:
        return None


def lock_generation(root: Path) -> int | None:
    """Return the generation of the driver that last acquired the output folder's lock, or None."""
    try:
        return json.loads((root / ".lock").read_bytes())["generation"]
    except (FileNotFoundError, ValueError):
        return None
