"""Run a study's command in a new process, observe the processes that it starts, and end them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from studies.harness.design.options import Options
from trainables.store import trial_folders

ROOT = Path(__file__).parents[2]
SEEDS, EPOCHS = 16, 8
PATIENCE = 300  # seconds to wait for an expected event, on a busy machine
ORPHAN_SECONDS = 10
# If the driver and Ray are killed while a worker starts, the worker first tries five connections of
# 5 s each.
ORPHAN_SECONDS_KILLED = 35
MARK = "PRECOND_FAULTS"  # environment variable of a driver and of all processes that it starts


class Driver:
    """A process that runs a study's command; its child processes inherit a mark.

    Args:
        root: The output folder.
        *arguments: Additional arguments of the command.
    """

    def __init__(self, root: Path, *arguments: str):
        self.root, self.mark = root, uuid.uuid4().hex
        flags = f"--optimizers sgd --seeds {SEEDS} --epochs {EPOCHS} --commit-every 0"
        command = [sys.executable, str(ROOT / "studies" / "ablation_rank.py"), *flags.split()]
        command += ["--out", str(root), *arguments]
        environment = {
            **os.environ,
            MARK: self.mark,
            "RAY_raylet_start_wait_time_s": "180",
            "PYTHONPATH": str(ROOT),
        }
        self._log = root.with_suffix(f".{self.mark}.log")
        with open(self._log, "w") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it does not receive the terminal's signals
            )

    def output(self) -> str:
        """Return the output of the command so far."""
        return self._log.read_text()

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, or None if the process is still running after some seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_for_lock(self) -> None:
        """Wait until the process has locked the output folder or has ended."""
        lock, holder = self.root / ".lock", f'"pid": {self.process.pid},'
        self._wait(lambda: lock.exists() and holder in lock.read_text())

    def wait_for_progress(self) -> None:
        """Wait until an epoch is committed or the process has ended."""
        before = committed(self.root)
        self._wait(lambda: committed(self.root) != before)

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition() and self.process.poll() is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no progress for {PATIENCE} s: {self.output()}")
            time.sleep(0.05)

    def victims(self, kind: str) -> list[psutil.Process]:
        """Return the command's processes of a kind: `driver`, `worker`, `raylet` or `head`."""
        names = {"worker": "ray::", "raylet": "raylet", "head": "gcs_server"}
        if kind == "driver":
            return [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        return [
            p
            for p in self.descendants()
            if _name(p).startswith(names[kind]) and "IDLE" not in _name(p)
        ]

    def descendants(self) -> list[psutil.Process]:
        """Return the living processes that the command started, recognised by the mark."""
        return [
            p for p in psutil.process_iter() if p.pid != self.process.pid and _mark(p) == self.mark
        ]

    def orphans(self) -> list[str]:
        """Return one line for each descendant that outlives the command for too long."""
        killed = self.process.returncode == -signal.SIGKILL
        seconds = ORPHAN_SECONDS_KILLED if killed else ORPHAN_SECONDS
        deadline = time.monotonic() + seconds * load_factor()
        while (orphans := self.descendants()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [f"I6: the process {_name(process)} is still running" for process in orphans]

    def destroy(self) -> None:
        """Kill the command and its descendants."""
        for process in [*self.descendants(), *self.victims("driver")]:
            process.kill()
        self.process.wait()


def load_factor() -> float:
    """Return the number of runnable processes per core, at least 1.

    Time limits are multiplied by this number, because they apply to an otherwise idle machine.
    """
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def _name(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    if words and words[0].startswith("ray::"):  # Ray sets the title of a worker's process
        return words[0]
    return " ".join(Path(word.split()[0]).name for word in words[:4] if word.strip())


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError):
        return None


def committed(root: Path) -> dict[str, int]:
    """Return the number of committed epochs by trial folder."""
    files = [folder / "epochs.jsonl" for folder in trial_folders(root)]
    return {file.parent.name: file.read_bytes().count(b"\n") for file in files if file.exists()}


def options(root: Path) -> Options:
    """Return the parsed options of a driver's command line."""
    arms: dict[str, Any] = {"only": {}, "levels": {}, "settings": {}, "optimizers": ["sgd"]}
    return Options(**arms, out=root, seeds=list(range(SEEDS)), epochs=EPOCHS, tracking_uri="none")
