"""Whole commands under Ray, killed and signalled. A study is run to its end through all of it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from studies.ablation_rank import STUDY
from studies.harness.design.arms import Trial
from studies.harness.kinds.study.plan import plan
from tests.faults.drivers import PATIENCE, Driver, committed, options, waiting
from tests.faults.injection import in_child
from tests.faults.invariants import Numbers, finished, numbers, unfinished
from tests.faults.server import Server, views
from trainables import train
from trainables.data import digits
from trainables.store import TrialStore

STOP_SECONDS = 20
KINDS = ("worker", "driver", "server", "raylet", "worker", "head")


def kill(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """G1: n times SIGKILL to a worker, the driver, MLflow's server, the raylet or Ray's head, at random moments."""
    with Studies(folder, tracked=True) as studies_:
        yield from _kills(n, rng, studies_)


def _kills(n: int, rng: random.Random, studies_: Studies) -> Iterator[list[str]]:
    for number in range(n):
        driver = studies_.driver()
        driver.wait_for_progress()
        time.sleep(rng.uniform(0, 2))
        kind = KINDS[number % len(KINDS)]
        victims = [] if kind == "server" else driver.victims(kind)
        if kind == "server":
            studies_.server.kill()
        elif not victims:
            driver.wait(PATIENCE)
        else:
            rng.choice(victims).kill()
        wrong = []
        if kind in ("worker", "server"):
            driver.wait_for_progress()
            studies_.server.start()
        elif (code := driver.wait(PATIENCE)) not in (
            (-signal.SIGKILL,) if kind == "driver" else (0, 4)
        ):
            wrong.append(f"I7: exit code {code}: {driver.output()[-300:]}")
        yield [f"{kind} killed: {line}" for line in wrong + studies_.check()]
    yield studies_.finish()


def signals(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """G7: n each of SIGTERM, SIGINT, SIGINT twice, and SIGINT to all as from a terminal: out within 20 s.

    With the promised exit code and last line. Every third comes while Ray starts, the others while trials run or after.
    """
    with Studies(folder) as studies_:
        yield from _signals(n, rng, studies_)


def _signals(n: int, rng: random.Random, studies_: Studies) -> Iterator[list[str]]:
    for number in range(4 * n):
        kind = ("SIGTERM", "SIGINT", "SIGINT twice", "SIGINT to all")[number % 4]
        driver = studies_.driver()
        if number % 3:
            driver.wait_for_progress()
            time.sleep(rng.uniform(0, 3))
        else:
            driver.wait_for_lock()
            time.sleep(rng.uniform(0, 8))
        start = time.monotonic()
        if kind == "SIGINT to all":
            os.killpg(driver.process.pid, signal.SIGINT)
        else:
            driver.process.send_signal(signal.SIGTERM if kind == "SIGTERM" else signal.SIGINT)
        if kind == "SIGINT twice":
            time.sleep(0.5)
            driver.process.send_signal(signal.SIGINT)
        code, expected = driver.wait(PATIENCE), 143 if kind == "SIGTERM" else 130
        seconds, wrong, last = (
            time.monotonic() - start,
            [],
            driver.output().rstrip().splitlines()[-1:],
        )
        if code != 0:  # else it had just ended by itself
            wrong += (
                [f"I7: exit code {code}, not {expected}: {driver.output()[-300:]}"]
                if code != expected
                else []
            )
            wrong += [] if "ablation_rank.py" in "".join(last) else [f"I7: the last line is {last}"]
        wrong += (
            [f"I7: {seconds:.1f} s until the end"] if seconds > STOP_SECONDS * waiting() else []
        )
        yield [f"{kind}: {line}" for line in wrong + studies_.check()]
    yield studies_.finish()


class Studies:
    """One study after another, each taken up again by a new driver until it is complete."""

    def __init__(self, folder: Path, tracked: bool = False):
        self._folder, self._number, self._driver, self._tracked = folder, 0, None, tracked
        self.trials: list[Trial] = list(plan(STUDY, options(folder)).trials)
        self.expected = self._reference(folder / "reference")
        self._before: dict[str, int] = {}
        self._ended: list[str] = []  # what is wrong with the studies before
        self.root.mkdir()
        self.server = Server(self.root)  # of the study of the moment

    def __enter__(self) -> Studies:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing running."""
        self.server.kill()
        if self._driver is not None:
            self._driver.destroy()

    @property
    def root(self) -> Path:
        """Where the study of the moment is."""
        return self._folder / f"study-{self._number}"

    def driver(self) -> Driver:
        """The one that is running, or a new one; of the next study when this one is complete."""
        if self._driver is None or self._driver.process.poll() is not None:
            if self._driver is not None and self._driver.process.poll() == 0:
                self._ended += self._complete()
                self._number, self._before = self._number + 1, {}
                self.root.mkdir()
                self.server = Server(self.root)
            if self._tracked:
                self.server.start()
            self._driver = Driver(
                self.root, "--tracking-uri", self.server.uri if self._tracked else "none"
            )
        return self._driver

    def check(self) -> list[str]:
        """What is wrong at the moment."""
        wrong, now = self._ended, committed(self.root)
        for trial in self.trials:
            at_least = self._before.get(trial.config.trial_key[:16], 0)
            if TrialStore(self.root, trial.config).folder.exists():
                wrong += unfinished(
                    self.root, trial.config, self.expected[trial.config.trial_key], at_least
                )
        self._before, self._ended = now, []
        if self._driver is not None and self._driver.process.poll() is not None:
            wrong += self._driver.orphans()
        return wrong

    def finish(self) -> list[str]:
        """Let the study end undisturbed; what is wrong then."""
        driver = self.driver()
        code = driver.wait(PATIENCE)
        wrong = [] if code == 0 else [f"I7: exit code {code} in the end: {driver.output()[-300:]}"]
        return wrong + self._complete() + driver.orphans()

    def _complete(self) -> list[str]:
        """What is wrong with a study that has ended, and with what MLflow has of it once it was sent the rest."""
        wrong = finished(self.root, [trial.config for trial in self.trials], self.expected)
        if self._tracked:
            self.server.start()
            self.server.wait()
            view = STUDY.tracking(plan(STUDY, options(self.root)))
            view.send(self.server.uri)  # the files of a run pass through it
            self.server.kill()
            wrong += views(self.root, self.trials, self.server.database)
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
