"""Whole commands under Ray: killed, signalled and started twice. A study is run to its end through all of it."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

import studies.harness
from studies.ablation_rank import STUDY
from studies.harness import run as command
from studies.harness.options import Options
from studies.harness.plan import plan
from studies.harness.study import Trial
from tests.faults.injection import in_child
from tests.faults.invariants import Numbers, finished, numbers, unfinished
from trainables import train
from trainables.data import digits
from trainables.store import TrialStore, lock_generation, trial_folders

ROOT = Path(__file__).parents[2]
SEEDS, EPOCHS = 16, 8
PATIENCE = 300  # seconds until something that must happen has happened, on a busy machine
STOP_SECONDS, ORPHAN_SECONDS = 20, 10
MARK = "PRECOND_FAULTS"  # in the environment of a driver and of all that it starts


def kill(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """G1: n kills with SIGKILL of a worker, the driver, the raylet or Ray's head, at random moments."""
    studies_ = _Studies(folder)
    for number in range(n):
        driver = studies_.driver()
        driver.wait_for_progress()
        time.sleep(rng.uniform(0, 2))
        kind = ("worker", "driver", "worker", "raylet", "worker", "head")[number % 6]
        victims = driver.victims(kind)
        if not victims:
            driver.wait(PATIENCE)
        else:
            rng.choice(victims).kill()
        wrong = []
        if kind == "worker":
            driver.wait_for_progress()
        elif (code := driver.wait(PATIENCE)) not in ((-signal.SIGKILL,) if kind == "driver" else (0, 4)):
            wrong.append(f"I7: exit code {code}: {driver.output()[-300:]}")
        yield [f"{kind} killed: {line}" for line in wrong + studies_.check()]
    yield studies_.finish()


def signals(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """G7: n each of SIGTERM, SIGINT, SIGINT twice, and SIGINT to all as from a terminal: out within 20 s.

    With the promised exit code and last line.
    """
    studies_ = _Studies(folder)
    for number in range(4 * n):
        kind = ("SIGTERM", "SIGINT", "SIGINT twice", "SIGINT to all")[number % 4]
        driver = studies_.driver()
        driver.wait_for_progress()
        time.sleep(rng.uniform(0, 3))
        start = time.monotonic()
        if kind == "SIGINT to all":
            os.killpg(driver.process.pid, signal.SIGINT)
        else:
            driver.process.send_signal(signal.SIGTERM if kind == "SIGTERM" else signal.SIGINT)
        if kind == "SIGINT twice":
            time.sleep(0.5)
            driver.process.send_signal(signal.SIGINT)
        code, expected = driver.wait(PATIENCE), 143 if kind == "SIGTERM" else 130
        seconds, wrong, last = time.monotonic() - start, [], driver.output().rstrip().splitlines()[-1:]
        if code != 0:  # else it had just ended by itself
            wrong += [f"I7: exit code {code}, not {expected}: {driver.output()[-300:]}"] if code != expected else []
            wrong += [] if "ablation_rank.py" in "".join(last) else [f"I7: the last line is {last}"]
        wrong += [f"I7: {seconds:.1f} s until the end"] if seconds > STOP_SECONDS else []
        yield [f"{kind}: {line}" for line in wrong + studies_.check()]
    yield studies_.finish()


def double(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """G11: n times the same command twice within 0.2 s: one trains, the other gives up at once and writes nothing.

    The winner trains until the other has ended, so that on a busy machine, too, neither comes after the other.
    """
    for number in range(n):
        root = folder / str(number)
        waits = [0.0, rng.uniform(0, 0.2)]
        start, (reading, writing) = time.monotonic(), os.pipe()
        children = [_forked(lambda w=wait, r=root, p=(reading, writing): _command(r, w, *p)) for wait in waits]
        os.close(reading)
        ended = {}
        while len(ended) < 2:
            pid, status = os.wait()
            if not ended:
                os.close(writing)
            ended[pid] = os.waitstatus_to_exitcode(status), time.monotonic() - start
        codes = {pid: code for pid, (code, _) in ended.items()}
        wrong = [] if sorted(codes.values()) == [0, 4] else [f"exit codes {sorted(codes.values())}"]
        losers = [pid for pid in children if codes[pid] == 4]
        wrong += [f"the loser took {ended[p][1]:.1f} s" for p in losers if ended[p][1] > 3]
        holder = (root / ".lock").read_text()
        wrong += ["the loser wrote the lock"] if any(f'"pid": {pid},' in holder for pid in losers) else []
        wrong += [] if lock_generation(root) == 1 else [f"generation {lock_generation(root)}"]
        yield wrong


def _forked(work: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        code = -1
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def _command(root: Path, wait: float, reading: int, writing: int) -> int:
    """The command as a user runs it; its training waits until nobody can write into a pipe."""
    os.close(writing)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)

    def trains(*_: object) -> str:
        select.select([reading], [], [], PATIENCE)
        return "done"

    fake: Any = types.SimpleNamespace(Cluster=types.SimpleNamespace, train=trains)
    sys.modules["studies.harness.execute"] = studies.harness.execute = fake
    command._report = lambda *_: ([], set())
    time.sleep(wait)
    return command.run([STUDY], _options(root))


def _options(root: Path) -> Options:
    chosen: dict[str, Any] = {"only": {}, "levels": {}, "settings": {}, "optimizers": ["sgd"]}
    return Options(**chosen, out=root, seeds=list(range(SEEDS)), epochs=EPOCHS, tracking_uri="none")


class Driver:
    """A study's process and all that it started."""

    def __init__(self, root: Path, *arguments: str):
        self.root, self.mark = root, uuid.uuid4().hex
        flags = ["--optimizers", "sgd", "--seeds", SEEDS, "--epochs", EPOCHS, "--commit-every", "0", "--out", root]
        environment = {**os.environ, MARK: self.mark, "RAY_raylet_start_wait_time_s": "180", "PYTHONPATH": str(ROOT)}
        self._log = root.with_suffix(f".{self.mark}.log")
        with open(self._log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "studies" / "ablation_rank.py", *map(str, flags), *arguments],
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

    def wait_for_progress(self) -> None:
        """Until an epoch was committed, or it has ended."""
        before, deadline = committed(self.root), time.monotonic() + PATIENCE
        while committed(self.root) == before and self.process.poll() is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing happened for {PATIENCE} s: {self.output()}")
            time.sleep(0.05)

    def victims(self, kind: str) -> list[psutil.Process]:
        """Its processes of a kind: `driver`, `worker`, `raylet` or `head`."""
        names = {"worker": "ray::", "raylet": "raylet", "head": "gcs_server"}
        if kind == "driver":
            return [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        return [p for p in self.family() if _name(p).startswith(names[kind]) and "IDLE" not in _name(p)]

    def family(self) -> list[psutil.Process]:
        """All living processes that carry its mark."""
        return [p for p in psutil.process_iter() if p.pid != self.process.pid and _mark(p) == self.mark]

    def orphans(self) -> list[str]:
        """What outlives it by more than it may."""
        deadline = time.monotonic() + ORPHAN_SECONDS
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [f"I6: {_name(process)} is left" for process in left]

    def destroy(self) -> None:
        """Leave nothing behind."""
        for process in [*self.family(), *self.victims("driver")]:
            process.kill()
        self.process.wait()


def _name(process: psutil.Process) -> str:
    try:
        line = process.cmdline()
        ray_named = bool(line) and line[0].startswith("ray::")  # else a program and its arguments
        return line[0] if ray_named else " ".join(Path(word.split()[0]).name for word in line[:4] if word.strip())
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


class _Studies:
    """One study after another, each taken up again by a new driver until it is complete."""

    def __init__(self, folder: Path):
        self._folder, self._number, self._driver = folder, 0, None
        self.trials: list[Trial] = list(plan(STUDY, _options(folder)).trials)
        self.expected = self._reference(folder / "reference")
        self._before: dict[str, int] = {}

    @property
    def root(self) -> Path:
        """Where the study of the moment is."""
        return self._folder / f"study-{self._number}"

    def driver(self) -> Driver:
        """The one that is running, or a new one; of the next study when this one is complete."""
        if self._driver is None or self._driver.process.poll() is not None:
            if self._driver is not None and self._driver.process.poll() == 0:
                self._number, self._before = self._number + 1, {}
            self.root.mkdir(exist_ok=True)
            self._driver = Driver(self.root, "--tracking-uri", "none")
        return self._driver

    def check(self) -> list[str]:
        """What is wrong at the moment."""
        wrong, now = [], committed(self.root)
        for trial in self.trials:
            at_least = self._before.get(trial.config.trial_key[:16], 0)
            if TrialStore(self.root, trial.config).folder.exists():
                wrong += unfinished(self.root, trial.config, self.expected[trial.config.trial_key], at_least)
        self._before = now
        if self._driver is not None and self._driver.process.poll() is not None:
            wrong += self._driver.orphans()
        return wrong

    def finish(self) -> list[str]:
        """Let the study end undisturbed; what is wrong then."""
        driver = self.driver()
        code = driver.wait(PATIENCE)
        wrong = [] if code == 0 else [f"I7: exit code {code} in the end: {driver.output()[-300:]}"]
        wrong += finished(self.root, [trial.config for trial in self.trials], self.expected) + driver.orphans()
        driver.destroy()
        return wrong

    def _reference(self, root: Path) -> dict[str, Numbers]:
        """The uninterrupted run, in this process's child, without Ray."""
        digits._tensors()

        def work() -> None:
            for trial in self.trials:
                store = TrialStore(root, trial.config)
                store.create()
                list(train.epochs(trial.config, store))

        assert in_child(work) == 0
        return {t.config.trial_key: numbers(TrialStore(root, t.config).folder) for t in self.trials}
