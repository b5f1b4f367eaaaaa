"""Train trials that are chosen while other trials run, such as the pairs of a judgement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from studies.harness.cluster.execute import session
from studies.harness.cluster.progress import StudyProgress
from studies.harness.cluster.submitting import Submitter, room
from studies.harness.cluster.tuning import Fifo
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options


class Source(Protocol):
    """Chooses the trials; `kinds.judge.execute` implements it."""

    def begin(self) -> None:
        """Forget the submissions, so that `next` also returns submitted trials that have not ended."""

    def next(self, room: int) -> Trial | None:
        """Create the folder of the next trial and return the trial; None without one for now."""
        ...

    def finished(self) -> bool:
        """Return True if no trial is needed any more."""
        ...

    def left(self) -> int:
        """Return the number of submitted trials that have not ended."""
        ...


def train(
    source: Source,
    expected: Sequence[Trial],
    options: Options,
    generation: int,
    progress: StudyProgress,
    on_lost: Callable[[str], int],
) -> str:
    """Train the trials of a source. Result and errors: see `execute.train`.

    Args:
        source: Chooses the trials.
        expected: The trials that it may choose. Their number limits the number of workers.
        options: The command line.
        generation: Number of this driver for the output folder.
        progress: The display of trials and epochs.
        on_lost: As for `execute.train`.
    """
    with session(expected, options, generation, on_lost) as running:

        def limit() -> int:
            return room(running.options)

        repeat = not source.finished()
        while repeat:
            submitter = Submitter(
                lambda: source.next(limit()), source.finished, limit, progress.add
            )
            dropped = running.fit(
                progress, {}, search_alg=submitter, scheduler=Fifo(), num_samples=-1
            )
            repeat = running.should_continue(source.left(), dropped)
            source.begin()
    return running.ended(source.finished())
