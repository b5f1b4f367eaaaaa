"""The trial folder: the only source of truth about a trial.

    outputs/trials/<first 16 hexadecimal digits of the key>/
        config.json            schema, full key, resolved configuration; written once by the driver, all else by workers
        epochs.jsonl           one line per committed epoch
        diagnostics.jsonl      one line per committed epoch and layer, if diagnostics are on
        checkpoint-<epoch>/    state.pt and manifest.json with its SHA-256; the last two, deleted when the trial ends
        attempts.jsonl         one line per worker that opened the folder, with its provenance
        log.txt                errors in full
        status.json            completed | diverged | oom | failed: terminal
        quarantine/            checkpoints that did not match their manifest

A commit writes aside, fsyncs, renames, fsyncs the directory and only then appends the epochs' lines: a worker killed
at any moment leaves either the old state or the new one. Every write first compares the worker's generation with the
one in `outputs/.lock`, so a worker of a driver that was replaced cannot write.
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
MAX_LOST_WORKERS = 3  # within one driver's run, without a new commit
Nodes = Collection[str] | None  # the nodes of the cluster that are alive; None on one machine


class FencedError(StoreError):
    """Another driver now owns the output folder: this worker must stop without writing."""


class TrialStore:
    """One trial's folder.

    Args:
        root: The output folder, which contains `trials/` and the driver's `.lock`.
        config: The trial.
        generation: The driver's generation, checked before every write; None if no driver owns the folder.
        nodes: The nodes that are alive.
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
                raise StoreError(
                    f"{self.folder} holds another trial with the same first 16 digits: move it away"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {"schema": SCHEMA, "key": self.config.trial_key, "config": self.config.to_dict()}
        write_atomically(path, json.dumps(document, indent=1).encode())

    def status(self) -> dict[str, Any] | None:
        """Return the terminal status with its details, or None while the trial is in flight."""
        return read_status(self.folder)

    def epochs(self) -> list[dict[str, Any]]:
        """Return the records of the committed epochs, in order."""
        return read_lines(self.folder / "epochs.jsonl")

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Return (epoch, state) of the newest checkpoint that matches its manifest, or None if there is none.

        A damaged checkpoint is moved to `quarantine/` and the one before it is used. If the worker that wrote the
        checkpoint was killed before it appended the lines of its epochs, they are appended now.
        """
        for path in reversed(checkpoints.list_checkpoints(self.folder)):
            epoch = checkpoints.epoch_of(path)
            try:
                lines, layers, state = checkpoints.read(path, self.config.trial_key)
                if lines and lines[0]["epoch"] > len(
                    self.epochs()
                ):  # a disk lost more than the last commit
                    raise checkpoints.Damaged("the lines before it are lost")
            except checkpoints.Damaged as problem:
                self.log(
                    f"checkpoint of epoch {epoch} is damaged ({problem}); using the one before it"
                )
                quarantine = self.folder / "quarantine"
                quarantine.mkdir(exist_ok=True)
                path.rename(quarantine / f"{path.name}-{time.time_ns()}")
                continue
            self._pending, self._layers = lines, layers
            self._append_pending()
            return epoch, state
        return None

    def reopen(self) -> None:
        """Delete a terminal status, so that the trial is trained again, from its last checkpoint if it has one."""
        path = self.folder / "status.json"
        if path.exists():
            self.log(f"opened again; it had ended {path.read_text()}")
            path.unlink()

    def begin(self, provenance: Mapping[str, Any]) -> int:
        """Open an attempt: remove incomplete files of a killed worker, and record this worker's provenance.

        Returns:
            The number of workers that this driver has lost at this point of the trial, without a commit in between.
            Workers that had to leave or were lost with their node do not count: the trial did not cause it.
        """
        self._check_generation()
        for leftover in self.folder.glob("*.tmp"):
            remove(leftover)
        for name in ("epochs", "diagnostics", "attempts"):
            repair_tail(self.folder / f"{name}.jsonl")
        here = {"generation": self.generation, "committed": len(self.epochs())}
        attempts = read_lines(self.folder / "attempts.jsonl")
        append_lines(self.folder / "attempts.jsonl", [{"time": time.time(), **here, **provenance}])
        if self.generation is None:  # no driver: a user starts the trial again deliberately
            return 0
        alike = [
            attempt
            for attempt in attempts
            if all(attempt[name] == value for name, value in here.items())
        ]
        alike = [
            attempt for attempt in alike if self.nodes is None or attempt.get("node") in self.nodes
        ]
        return sum(-1 if "left" in attempt else 1 for attempt in alike)

    def leave(self, why: str) -> None:
        """Record that this worker has to leave: append its attempt again, with the reason."""
        path = self.folder / "attempts.jsonl"
        append_lines(path, [{**read_lines(path)[-1], "time": time.time(), "left": why}])

    def record(
        self, epoch: int, metrics: Mapping[str, float], layers: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Record a finished epoch and its lines of diagnostics; `commit` or `finish` writes them."""
        self._pending.append({"epoch": epoch, "time": time.time(), "metrics": dict(metrics)})
        self._layers += layers

    def commit(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of the last recorded epoch, then the lines of every recorded epoch."""
        self._check_generation()
        checkpoints.write(self.folder, self.config.trial_key, self._pending, self._layers, state)
        self._append_pending()
        for old in checkpoints.list_checkpoints(self.folder)[:-2]:
            remove(old)

    def finish(self, status: str, **details: Any) -> None:
        """Write the recorded epochs and the terminal status, then delete the checkpoints.

        If the worker is killed between the two writes, the next worker only writes the status.
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
        if self._layers:  # before the epochs: the layers of an epoch with a line are complete
            path = self.folder / "diagnostics.jsonl"
            written = {line["epoch"] for line in read_lines(path)}
            append_lines(path, [line for line in self._layers if line["epoch"] not in written])
            self._layers.clear()
        committed = len(
            self.epochs()
        )  # epochs that are recomputed after a quarantine keep their first line
        append_lines(
            self.folder / "epochs.jsonl",
            [line for line in self._pending if line["epoch"] >= committed],
        )
        self._pending.clear()

    def _check_generation(self) -> None:
        if (
            self.generation is not None
            and (current := lock_generation(self.root)) != self.generation
        ):
            raise FencedError(
                f"{self.root} belongs to generation {current} now, not {self.generation}: stopping"
            )


def trial_folder(root: Path, key: str) -> Path:
    """Return the folder of a trial: `trials/` and the first 16 digits of its key."""
    return root / "trials" / key[:16]


def trial_folders(root: Path) -> Iterator[Path]:
    """Return all trial folders of an output folder, in the order of their names."""
    return (path.parent for path in sorted((root / "trials").glob("*/config.json")))


def read_config(folder: Path) -> dict[str, Any]:
    """Return a trial folder's `config.json`: schema, key, config.

    Raises:
        StoreError: The file does not exist, or a newer version wrote it.
    """
    try:
        document = parse((folder / "config.json").read_bytes(), folder / "config.json")
    except OSError as error:
        raise StoreError(
            f"{folder} is not a trial folder: {error.strerror} (config.json)"
        ) from error
    if document["schema"] > SCHEMA:
        raise StoreError(
            f"{folder} has schema {document['schema']}, this version reads up to {SCHEMA}: update precond"
        )
    return document


def read_status(folder: Path) -> dict[str, Any] | None:
    """Return a trial folder's terminal status, or None."""
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
