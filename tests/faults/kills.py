"""Kill or signal complete commands with Ray; new drivers resume the study and complete it."""

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
from tests.faults.drivers import PATIENCE, Driver, committed, load_factor, options
from tests.faults.injection import in_child
from tests.faults.invariants import Numbers, finished, numbers, unfinished
from tests.faults.server import Server, mlflow_differences
from trainables import train
from trainables.data import digits
from trainables.store import TrialStore

STOP_SECONDS = 20
KINDS = ("worker", "driver", "server", "raylet", "worker", "head")


def kill(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Kill a process at a random moment and check the output folder, n times.

    The process is a worker, the driver, the MLflow server, the raylet or the head of Ray.
    """
    with StudySequence(folder, tracked=True) as studies:
        yield from _kills(n, rng, studies)


def _kills(n: int, rng: random.Random, studies: StudySequence) -> Iterator[list[str]]:
    for number in range(n):
        driver = studies.driver()
        driver.wait_for_progress()
        time.sleep(rng.uniform(0, 2))
        kind = KINDS[number % len(KINDS)]
        victims = [] if kind == "server" else driver.victims(kind)
        if kind == "server":
            studies.server.kill()
        elif not victims:
            driver.wait(PATIENCE)
        else:
            rng.choice(victims).kill()
        violations = []
        if kind in ("worker", "server"):
            driver.wait_for_progress()
            studies.server.start()
        else:
            code = driver.wait(PATIENCE)
            if code not in ((-signal.SIGKILL,) if kind == "driver" else (0, 4)):
                violations.append(f"I7: exit code {code}: {driver.output()[-300:]}")
        yield [f"{kind} killed: {line}" for line in violations + studies.check()]
    yield studies.finish()


def signals(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Send SIGTERM, SIGINT, SIGINT twice, or SIGINT to the process group, n times each.

    The command must end within 20 s with the documented exit code and last line. A third of the
    signals are sent while Ray starts, the others while trials run or afterwards.
    """
    with StudySequence(folder) as studies:
        yield from _signals(n, rng, studies)


def _signals(n: int, rng: random.Random, studies: StudySequence) -> Iterator[list[str]]:
    for number in range(4 * n):
        kind = ("SIGTERM", "SIGINT", "SIGINT twice", "SIGINT to all")[number % 4]
        driver = studies.driver()
        if number % 3:
            driver.wait_for_progress()
            time.sleep(rng.uniform(0, 3))
        else:
            driver.wait_for_lock()
            time.sleep(rng.uniform(0, 8))
        start = time.monotonic()
        if kind == "SIGINT to all":  # as the terminal does for Ctrl-C
            os.killpg(driver.process.pid, signal.SIGINT)
        else:
            driver.process.send_signal(signal.SIGTERM if kind == "SIGTERM" else signal.SIGINT)
        if kind == "SIGINT twice":
            time.sleep(0.5)
            driver.process.send_signal(signal.SIGINT)
        code, expected = driver.wait(PATIENCE), 143 if kind == "SIGTERM" else 130
        seconds, violations = time.monotonic() - start, []
        last = driver.output().rstrip().splitlines()[-1:]
        if code not in (0, expected):  # 0 if the study was completed before the signal
            violations.append(f"I7: exit code {code}, not {expected}: {driver.output()[-300:]}")
        if code != 0 and "ablation_rank.py" not in "".join(last):
            violations.append(f"I7: the last line is {last}")
        if seconds > STOP_SECONDS * load_factor():
            violations.append(f"I7: the command ended after {seconds:.1f} s")
        yield [f"{kind}: {line}" for line in violations + studies.check()]
    yield studies.finish()


class StudySequence:
    """A sequence of studies; new drivers resume a study until it is complete.

    Args:
        folder: An empty folder, in which each study has an output folder.
        tracked: If True, the drivers send their results to an MLflow server.
    """

    def __init__(self, folder: Path, tracked: bool = False):
        self._folder, self._number, self._driver, self._tracked = folder, 0, None, tracked
        self.trials: list[Trial] = list(plan(STUDY, options(folder)).trials)
        self.expected = self._reference(folder / "reference")
        self._committed: dict[str, int] = {}  # at the last check
        self._violations: list[str] = []  # in completed studies, not yet returned by `check`
        self.root.mkdir()
        self.server = Server(self.root)  # of the current study

    def __enter__(self) -> StudySequence:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the server and the driver."""
        self.server.kill()
        if self._driver is not None:
            self._driver.destroy()

    @property
    def root(self) -> Path:
        """The output folder of the current study."""
        return self._folder / f"study-{self._number}"

    def driver(self) -> Driver:
        """Return the running driver or a new one, for the next study if this study is complete."""
        if self._driver is None or self._driver.process.poll() is not None:
            if self._driver is not None and self._driver.process.poll() == 0:
                self._violations += self._check_completed()
                self._number, self._committed = self._number + 1, {}
                self.root.mkdir()
                self.server = Server(self.root)
            if self._tracked:
                self.server.start()
            uri = self.server.uri if self._tracked else "none"
            self._driver = Driver(self.root, "--tracking-uri", uri)
        return self._driver

    def check(self) -> list[str]:
        """Return the violations since the last call."""
        violations, now = self._violations, committed(self.root)
        for trial in self.trials:
            key = trial.config.trial_key
            at_least = self._committed.get(key[:16], 0)
            if TrialStore(self.root, trial.config).folder.exists():
                violations += unfinished(self.root, trial.config, self.expected[key], at_least)
        self._committed, self._violations = now, []
        if self._driver is not None and self._driver.process.poll() is not None:
            violations += self._driver.orphans()
        return violations

    def finish(self) -> list[str]:
        """Complete the current study without faults and return the violations."""
        driver = self.driver()
        code = driver.wait(PATIENCE)
        violations = []
        if code != 0:
            violations.append(f"I7: exit code {code} without a fault: {driver.output()[-300:]}")
        return violations + self._check_completed() + driver.orphans()

    def _check_completed(self) -> list[str]:
        """Return the violations in a completed study and, after a synchronisation, in MLflow."""
        violations = finished(self.root, [trial.config for trial in self.trials], self.expected)
        if self._tracked:
            self.server.start()
            self.server.wait()
            view = STUDY.tracking(plan(STUDY, options(self.root)))
            view.send(self.server.uri)  # not to the database, because the server stores the files
            self.server.kill()
            violations += mlflow_differences(self.root, self.trials, self.server.database)
        return violations

    def _reference(self, root: Path) -> dict[str, Numbers]:
        """Return the numbers of the uninterrupted run, trained in a forked process without Ray."""
        digits._tensors()  # read before the fork

        def work() -> None:
            for trial in self.trials:
                store = TrialStore(root, trial.config)
                store.create()
                list(train.epochs(trial.config, store))

        assert in_child(work) == 0
        return {t.config.trial_key: numbers(TrialStore(root, t.config).folder) for t in self.trials}
