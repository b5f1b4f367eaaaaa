"""Seeded schedules of faults in an output folder, with the real store, loop and lock, without Ray.

A session is a driver and a worker in one process, which train all trials (`toy.session`). A
schedule is a list of events drawn from its seed: sessions that are killed or fail at a file
operation, a worker that outlives its driver, damaged checkpoints, truncated records, and a clock
that jumps. Only truncated records may lose committed epochs. At the end, a session without faults
completes the trials, whose numbers must equal those of an uninterrupted run.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from studies.harness.command import lock
from tests.faults import toy
from tests.faults.injection import BROKEN, DONE, EIO, ENOSPC, KILL, Fault, in_child
from tests.faults.invariants import Numbers, damaged, finished, unfinished
from trainables import train
from trainables.checkpoints import list_checkpoints
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import FencedError, TrialStore

TRIALS, MOST_EVENTS, OPERATIONS, DAY = 3, 6, 150, 86_400


def sim(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Run n schedules."""
    trials = toy.configs(TRIALS)
    expected = toy.reference(folder / "reference", trials)
    for number in range(n):
        seed = rng.randrange(2**32)
        root = folder / str(number)
        root.mkdir()
        violations = Schedule(root, trials, expected, random.Random(seed)).run()
        yield [f"schedule {seed}: {line}" for line in violations]
        shutil.rmtree(root)


class Schedule:
    """A schedule of faults.

    Args:
        root: The output folder, empty.
        trials: The trials.
        expected: The numbers of the uninterrupted run by trial key.
        rng: Draws the events.
    """

    def __init__(
        self,
        root: Path,
        trials: Sequence[TrialConfig],
        expected: dict[str, Numbers],
        rng: random.Random,
    ):
        self.root, self.trials, self.expected, self.rng = root, trials, expected, rng
        self.commit_every = rng.choice([0.0, 0.0, 1e9])
        self.violations: list[str] = []
        # The prefixes of the lines about checkpoints that this schedule has damaged.
        self.damages: list[str] = []

    def run(self) -> list[str]:
        """Run the events and a session without faults; return the violations."""
        events: list[Callable[[], None]] = [
            self.fail, self.fail, self.kill, self.kill, self.kill,
            self.outlive_driver, self.damage_checkpoint, self.truncate_records,
        ]  # fmt: skip
        for _ in range(self.rng.randint(1, MOST_EVENTS)):
            before, event = self._committed(), self.rng.choice(events)
            event()
            may_lose = event == self.truncate_records
            for trial in self.trials:
                at_least = 0 if may_lose else before[trial.trial_key]
                if TrialStore(self.root, trial).folder.exists():
                    lines = unfinished(self.root, trial, self.expected[trial.trial_key], at_least)
                    self.violations += [f"after {event.__name__}: {line}" for line in lines]
        code = in_child(lambda: toy.session(self.root, self.trials))
        self.violations += [] if code == DONE else [f"the last session ended with {code}"]
        return self.violations + finished(self.root, self.trials, self.expected)

    def _committed(self) -> dict[str, int]:
        return {
            trial.trial_key: len(TrialStore(self.root, trial).epochs()) for trial in self.trials
        }

    def _session(self, error: str, stays: bool = False) -> None:
        fault = Fault(self.root, self.rng.randint(1, OPERATIONS), error, stays)
        jump = self.rng.choice([0, 0, -DAY, DAY])

        def work() -> None:
            now = time.time
            time.time = lambda: now() + jump  # type: ignore[assignment]
            toy.session(self.root, self.trials, self.commit_every)

        if in_child(work, fault) == BROKEN:
            self.violations.append(
                f"{error} at operation {fault._at} ended a session with an unexpected exception"
            )

    def fail(self) -> None:
        """Make a random file operation of a session fail, or this one and all later ones."""
        self._session(*self.rng.choice([(EIO, False), (ENOSPC, True)]))

    def kill(self) -> None:
        """Kill the driver and the worker at a file operation."""
        self._session(KILL)

    def outlive_driver(self) -> None:
        """Let a worker continue after a new driver has locked the folder; it must not write."""
        trial, turns = self.rng.choice(self.trials), self.rng.randint(0, 2)

        def work() -> None:
            train.Trainer = toy.Toy  # type: ignore[assignment,misc]
            with lock.exclusive(self.root) as generation:
                old = TrialStore(self.root, trial, generation)
                old.create()
                running = train.epochs(trial, old, commit_every=0.0)
                ended = None in [next(running, None) for _ in range(turns)]
            with lock.exclusive(self.root):
                before = _contents(old.folder)
                if not ended and old.status() is None:
                    try:
                        list(running)
                        raise AssertionError("the old worker was not stopped")
                    except FencedError:
                        pass
                assert _contents(old.folder) == before, "the old worker wrote"

        if in_child(work) != DONE:
            self.violations.append("a worker of an earlier driver was not fenced off")

    def damage_checkpoint(self) -> None:
        """Flip a bit of a checkpoint; check before that only this event has damaged checkpoints."""
        stores = [TrialStore(self.root, trial) for trial in self.trials]
        checkpoints = [path for store in stores for path in list_checkpoints(store.folder)]
        lines = [line for store in stores for line in damaged(store)]
        self.violations += [line for line in lines if not line.startswith(tuple(self.damages))]
        if checkpoints:
            file = self.rng.choice(sorted(self.rng.choice(sorted(checkpoints)).iterdir()))
            self.damages.append(f"I3: {file.parent.relative_to(self.root / 'trials')}:")
            content = bytearray(file.read_bytes())
            content[self.rng.randrange(len(content))] ^= 0x10
            file.write_bytes(content)

    def truncate_records(self) -> None:
        """Truncate the last record of unfinished trials, as a power failure can."""
        for trial in self.trials:
            store = TrialStore(self.root, trial)
            path = store.folder / self.rng.choice(["epochs.jsonl", "attempts.jsonl"])
            if store.status() is None and read_lines(path):
                content = path.read_bytes()
                last = content.rfind(b"\n", 0, -1) + 1
                path.write_bytes(content[: self.rng.randrange(last, len(content))])


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
