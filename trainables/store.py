"""The trial folder: the only truth about a trial.

    outputs/trials/<first 16 hex of the key>/
        config.json            schema, full key, resolved configuration     written once, by the driver
        epochs.jsonl           one line per committed epoch                 appended by the worker, as is all below
        diagnostics.jsonl      one line per committed epoch and layer       where diagnostics were asked for
        checkpoint-<epoch>/    state.pt and manifest.json with its SHA-256  the last two; gone when the trial completes
        attempts.jsonl         one line per worker that opened the folder, with its provenance
        log.txt                what went wrong, in full
        status.json            completed | diverged | oom | failed: terminal
        quarantine/            checkpoints that did not match their manifest

A commit writes aside, fsyncs, renames, fsyncs the directory and only then appends the epochs' lines: a worker killed
at any moment leaves either the old state or the new one. `torch.load` does not notice flipped bits (it skips the CRCs
of its own zip format), hence the manifest. A worker of a driver that was replaced is fenced off: every write first
compares its generation with the one in `outputs/.lock`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables import checkpoints
from trainables.config import SCHEMA, TrialConfig
from trainables.files import StoreError, append_lines, parse, read_lines, remove, repair_tail, write_atomically

COMPLETED, DIVERGED, OOM, FAILED = "completed", "diverged", "oom", "failed"
MAX_LOST_WORKERS = 3  # within one driver's run, without a new commit


class FencedError(StoreError):
    """Another driver owns the output folder now: this worker must stop without writing."""


class TrialStore:
    """One trial's folder.

    Args:
        root: The output folder, which holds `trials/` and the driver's `.lock`.
        config: The trial.
        generation: The driver's generation, checked before every write; None when no driver owns the folder.
        nodes: Of the cluster, those that are alive; None on one machine.
    """

    def __init__(
        self,
        root: Path | str,
        config: TrialConfig,
        generation: int | None = None,
        nodes: Collection[str] | None = None,
    ):
        self.root, self.config = Path(root), config
        self.generation, self.nodes = generation, nodes
        self.folder = trial_folder(self.root, config.trial_key)
        self._pending: list[dict[str, Any]] = []
        self._layers: list[dict[str, Any]] = []

    @classmethod
    def open(
        cls, root: Path | str, key: str, generation: int | None = None, nodes: Collection[str] | None = None
    ) -> TrialStore:
        """The store of a trial whose `config.json` the driver has written.

        Raises:
            StoreError: No such folder, or one written by a newer version.
        """
        config = TrialConfig.from_dict(read_config(trial_folder(Path(root), key))["config"])
        return cls(root, config, generation, nodes)

    def create(self) -> None:
        """Write `config.json` unless it is there; called by the driver before the trial is submitted.

        Raises:
            StoreError: The folder holds another trial, or was written by a newer version.
        """
        path = self.folder / "config.json"
        if path.exists():
            if read_config(self.folder)["key"] != self.config.trial_key:
                raise StoreError(f"{self.folder} holds another trial with the same first 16 digits: move it away")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {"schema": SCHEMA, "key": self.config.trial_key, "config": self.config.to_dict()}
        write_atomically(path, json.dumps(document, indent=1).encode())

    # ------------------------------------------------------------------ reading

    def status(self) -> dict[str, Any] | None:
        """The terminal status with its details, or None while the trial is in flight."""
        return read_status(self.folder)

    def epochs(self) -> list[dict[str, Any]]:
        """The committed epochs' records, in order."""
        return read_lines(self.folder / "epochs.jsonl")

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint that matches its manifest: (its epoch, the state), or None to start afresh.

        A damaged checkpoint is moved to `quarantine/` and the one before it is used. The lines of its epochs are
        appended where the worker that wrote it could not any more.
        """
        for path in reversed(checkpoints.list_checkpoints(self.folder)):
            epoch = checkpoints.epoch_of(path)
            try:
                lines, layers, state = checkpoints.read(path, self.config.trial_key)
                if lines and lines[0]["epoch"] > len(self.epochs()):  # a disk lost more than the last commit
                    raise checkpoints.Damaged("the lines before it are lost")
            except checkpoints.Damaged as problem:
                self.log(f"checkpoint of epoch {epoch} is damaged ({problem}); using the one before it")
                quarantine = self.folder / "quarantine"
                quarantine.mkdir(exist_ok=True)
                path.rename(quarantine / f"{path.name}-{time.time_ns()}")
                continue
            self._pending, self._layers = lines, layers
            self._append_pending()
            return epoch, state
        return None

    def reopen(self) -> None:
        """Take back a terminal status, so that the trial is trained again from its last checkpoint, if any."""
        path = self.folder / "status.json"
        if path.exists():
            self.log(f"opened again; it had ended {path.read_text()}")
            path.unlink()

    # ------------------------------------------------------------------ writing (the worker)

    def begin(self, provenance: Mapping[str, Any]) -> int:
        """Open an attempt: clear what a killed worker left half-written and note who is at work.

        Returns:
            How many workers this driver has lost at this point of the trial, without a commit in between. Those that
            were told to leave, or went with their node, were not the trial's fault and are not among them.
        """
        self._check_generation()
        for leftover in self.folder.glob("*.tmp"):
            remove(leftover)
        repair_tail(self.folder / "epochs.jsonl")
        repair_tail(self.folder / "diagnostics.jsonl")
        repair_tail(self.folder / "attempts.jsonl")
        here = {"generation": self.generation, "committed": len(self.epochs())}
        attempts = read_lines(self.folder / "attempts.jsonl")
        append_lines(self.folder / "attempts.jsonl", [{"time": time.time(), **here, **provenance}])
        if self.generation is None:  # no driver: whoever starts it again has decided to
            return 0
        alike = [attempt for attempt in attempts if all(attempt[name] == value for name, value in here.items())]
        alike = [attempt for attempt in alike if self.nodes is None or attempt.get("node") in self.nodes]
        return sum(-1 if "left" in attempt else 1 for attempt in alike)

    def leave(self, why: str) -> None:
        """Note that this worker gives up because it was told to: its attempt again, with the reason."""
        path = self.folder / "attempts.jsonl"
        append_lines(path, [{**read_lines(path)[-1], "time": time.time(), "left": why}])

    def record(self, epoch: int, metrics: Mapping[str, float], layers: Sequence[dict[str, Any]] = ()) -> None:
        """Note a finished epoch, and its lines of diagnostics; it counts once `commit` or `finish` has written it."""
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
        """Write the recorded epochs and the terminal status, then drop the checkpoints.

        Killed between the two, the next worker finds every epoch committed and only writes the status.
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

    # ------------------------------------------------------------------ private

    def _append_pending(self) -> None:
        # Epochs recomputed after a quarantine keep their first line. The layers go first: what an epoch's line promises
        # is there.
        self._append_layers()
        committed = len(self.epochs())
        append_lines(self.folder / "epochs.jsonl", [line for line in self._pending if line["epoch"] >= committed])
        self._pending.clear()

    def _append_layers(self) -> None:
        if self._layers:
            path = self.folder / "diagnostics.jsonl"
            written = {line["epoch"] for line in read_lines(path)}
            append_lines(path, [line for line in self._layers if line["epoch"] not in written])
            self._layers.clear()

    def _check_generation(self) -> None:
        if self.generation is None:
            return
        current = lock_generation(self.root)
        if current != self.generation:
            raise FencedError(f"{self.root} belongs to generation {current} now, not {self.generation}: stopping")


# ---------------------------------------------------------------------- folders and files


def trial_folder(root: Path, key: str) -> Path:
    """Where a trial lives: `trials/` and the first 16 digits of its key."""
    return root / "trials" / key[:16]


def trial_folders(root: Path) -> Iterator[Path]:
    """All trial folders of an output folder, in the order of their names."""
    return (path.parent for path in sorted((root / "trials").glob("*/config.json")))


def read_config(folder: Path) -> dict[str, Any]:
    """A trial folder's `config.json`: schema, key, config.

    Raises:
        StoreError: There is none, or a newer version wrote it.
    """
    try:
        document = parse((folder / "config.json").read_bytes(), folder / "config.json")
    except OSError as error:
        raise StoreError(f"{folder} is not a trial folder: {error.strerror} (config.json)") from error
    if document["schema"] > SCHEMA:
        raise StoreError(f"{folder} has schema {document['schema']}, this version reads up to {SCHEMA}: update precond")
    return document


def read_status(folder: Path) -> dict[str, Any] | None:
    """A trial folder's terminal status, or None."""
    try:
        return parse((folder / "status.json").read_bytes(), folder / "status.json")
    except FileNotFoundError:
        return None


def lock_generation(root: Path) -> int | None:
    """The generation of the driver that last took the output folder's lock, or None."""
    try:
        return json.loads((root / ".lock").read_bytes())["generation"]
    except (FileNotFoundError, ValueError):
        return None
