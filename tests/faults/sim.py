"""G21: seeded schedules of everything that can happen to a folder, without Ray: store, loop and lock are the real ones.

A schedule is a list of events drawn from its seed: sessions that are killed or fail at some file operation, a worker
that outlives its driver, damaged checkpoints, torn lines, a clock that jumps. What was committed before an event is
there after it; in the end an undisturbed session finishes, and everything must be as if nothing had happened.
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
    """n schedules."""
    trials = toy.configs(TRIALS)
    expected = toy.reference(folder / "reference", trials)
    for number in range(n):
        seed = rng.randrange(2**32)
        root = folder / str(number)
        root.mkdir()
        yield [
            f"schedule {seed}: {line}"
            for line in Schedule(root, trials, expected, random.Random(seed)).run()
        ]
        shutil.rmtree(root)


class Schedule:
    """One schedule on a folder of its own."""

    def __init__(
        self,
        root: Path,
        trials: Sequence[TrialConfig],
        expected: dict[str, Numbers],
        rng: random.Random,
    ):
        self.root, self.trials, self.expected, self.rng = root, trials, expected, rng
        self.commit_every = rng.choice([0.0, 0.0, 1e9])
        self.wrong: list[str] = []
        self.spoiled: list[str] = []  # what the damage that was done here looks like

    def run(self) -> list[str]:
        """All of it; what was violated."""
        events: list[Callable[[], None]] = [
            self.fails, self.fails, self.is_killed, self.is_killed, self.is_killed,
            self.outlived, self.checkpoint_is_damaged, self.lines_are_torn,
        ]  # fmt: skip
        for _ in range(self.rng.randint(1, MOST_EVENTS)):
            before, event = self._committed(), self.rng.choice(events)
            event()
            may_lose = event == self.lines_are_torn
            for trial in self.trials:
                at_least = 0 if may_lose else before[trial.trial_key]
                if TrialStore(self.root, trial).folder.exists():
                    found = unfinished(self.root, trial, self.expected[trial.trial_key], at_least)
                    self.wrong += [f"after {event.__name__}: {line}" for line in found]
        code = in_child(lambda: toy.session(self.root, self.trials))
        self.wrong += [] if code == DONE else [f"the last session ended with {code}"]
        return self.wrong + finished(self.root, self.trials, self.expected)

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
            self.wrong.append(f"a session broke at operation {fault._at} with {error}")

    def fails(self) -> None:
        """A file operation fails, once or from then on."""
        self._session(*self.rng.choice([(EIO, False), (ENOSPC, True)]))

    def is_killed(self) -> None:
        """Driver and worker die at a file operation."""
        self._session(KILL)

    def outlived(self) -> None:
        """A worker goes on when a new driver has taken the folder: it must not write any more."""
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
            self.wrong.append("a worker of the driver before was not fenced off")

    def checkpoint_is_damaged(self) -> None:
        """Some bytes of a checkpoint are others."""
        found = [
            path for t in self.trials for path in list_checkpoints(TrialStore(self.root, t).folder)
        ]
        lines = [line for trial in self.trials for line in damaged(TrialStore(self.root, trial))]
        self.wrong += [line for line in lines if not line.startswith(tuple(self.spoiled))]
        if found:
            file = self.rng.choice(sorted(self.rng.choice(sorted(found)).iterdir()))
            self.spoiled.append(f"I3: {file.parent.relative_to(self.root / 'trials')}:")
            content = bytearray(file.read_bytes())
            content[self.rng.randrange(len(content))] ^= 0x10
            file.write_bytes(content)

    def lines_are_torn(self) -> None:
        """The last record of a trial in flight is cut, as a power failure does before the flush."""
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
