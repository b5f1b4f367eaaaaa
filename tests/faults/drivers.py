"""A study's command as a process of its own, with all that it starts: watched, and in the end removed."""

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
PATIENCE = 300  # seconds until something that must happen has happened, on a busy machine
ORPHAN_SECONDS = 10
# A worker that is just starting when its driver is killed, and Ray with it, first tries five connections of 5 s each.
ORPHAN_SECONDS_KILLED = 35
MARK = "PRECOND_FAULTS"  # in the environment of a driver and of all that it starts


class Driver:
    """A study's process and all that it started."""

    def __init__(self, root: Path, *arguments: str):
        self.root, self.mark = root, uuid.uuid4().hex
        flags = [
            "--optimizers",
            "sgd",
            "--seeds",
            SEEDS,
            "--epochs",
            EPOCHS,
            "--commit-every",
            "0",
            "--out",
            root,
        ]
        environment = {
            **os.environ,
            MARK: self.mark,
            "RAY_raylet_start_wait_time_s": "180",
            "PYTHONPATH": str(ROOT),
        }
        self._log = root.with_suffix(f".{self.mark}.log")
        with open(self._log, "w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    ROOT / "studies" / "ablation_rank.py",
                    *map(str, flags),
                    *arguments,
                ],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's signals are not ours
            )

    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None when it is still there."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_for_lock(self) -> None:
        """Until it has the output folder for itself, or it has ended."""
        lock, own = self.root / ".lock", f'"pid": {self.process.pid},'
        self._wait(lambda: lock.exists() and own in lock.read_text())

    def wait_for_progress(self) -> None:
        """Until an epoch was committed, or it has ended."""
        before = committed(self.root)
        self._wait(lambda: committed(self.root) != before)

    def _wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until() and self.process.poll() is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing happened for {PATIENCE} s: {self.output()}")
            time.sleep(0.05)

    def victims(self, kind: str) -> list[psutil.Process]:
        """Its processes of a kind: `driver`, `worker`, `raylet` or `head`."""
        names = {"worker": "ray::", "raylet": "raylet", "head": "gcs_server"}
        if kind == "driver":
            return [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        return [
            p for p in self.family() if _name(p).startswith(names[kind]) and "IDLE" not in _name(p)
        ]

    def family(self) -> list[psutil.Process]:
        """All living processes that carry its mark."""
        return [
            p for p in psutil.process_iter() if p.pid != self.process.pid and _mark(p) == self.mark
        ]

    def orphans(self) -> list[str]:
        """What outlives it by more than it may."""
        seconds = (
            ORPHAN_SECONDS_KILLED if self.process.returncode == -signal.SIGKILL else ORPHAN_SECONDS
        )
        deadline = time.monotonic() + seconds * waiting()
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [f"I6: {_name(process)} is left" for process in left]

    def destroy(self) -> None:
        """Leave nothing behind."""
        for process in [*self.family(), *self.victims("driver")]:
            process.kill()
        self.process.wait()


def waiting() -> float:
    """How many processes want each core, at least 1: a promise of seconds is one about a machine that has them."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def _name(process: psutil.Process) -> str:
    try:
        line = process.cmdline()
        ray_named = bool(line) and line[0].startswith("ray::")  # else a program and its arguments
        return (
            line[0]
            if ray_named
            else " ".join(Path(word.split()[0]).name for word in line[:4] if word.strip())
        )
    except psutil.Error:
        return ""


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError):
        return None


def committed(root: Path) -> dict[str, int]:
    """Committed epochs by trial folder."""
    return {folder.name: (folder / "epochs.jsonl").read_bytes().count(b"\n")
            for folder in trial_folders(root) if (folder / "epochs.jsonl").exists()}  # fmt: skip


def options(root: Path) -> Options:
    """What a driver's command line says, parsed."""
    chosen: dict[str, Any] = {"only": {}, "levels": {}, "settings": {}, "optimizers": ["sgd"]}
    return Options(**chosen, out=root, seeds=list(range(SEEDS)), epochs=EPOCHS, tracking_uri="none")
