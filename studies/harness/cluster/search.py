"""Run a search with Ray Tune: a Tuner for each optimizer in turn, then the winners with new seeds.

Tune requests the next trial whenever a slot is free. The proposals and all results are in the
output folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from studies.harness.cluster.execute import session
from studies.harness.cluster.progress import StudyProgress
from studies.harness.cluster.submitting import Submitter, room
from studies.harness.cluster.tuning import Fifo, NotPickled, Session
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from studies.harness.evidence.metrics import higher_is_better
from trainables.files import read_lines
from trainables.store import trial_folder

GRACE = 1  # the first epoch (counted from 0) after which ASHA may stop a trial


class Proposer(Protocol):
    """The part of a search that tunes one optimizer; `kinds.search.proposer` implements it."""

    @property
    def budget(self) -> int:
        """The number of configurations."""
        ...

    @property
    def asha(self) -> bool:
        """True if ASHA stops trials early."""
        ...

    @property
    def score(self) -> str:
        """The metric that scores a configuration, such as `val/accuracy`."""
        ...

    def begin(self) -> None:
        """Reset the submissions: `next` returns all configurations without an outcome again."""

    def next(self) -> Trial | None:
        """Create the folder of the next trial and return the trial; None if all are submitted."""

    def left(self) -> int:
        """Return the number of configurations without an outcome."""
        ...

    def trials(self) -> list[Trial]:
        """Return the trials of all proposals; before the first proposal, one example."""
        ...

    def stop(self, key: str, epoch: int, values: Mapping[int, float], seconds: float) -> None:
        """Record that a trial is stopped after an epoch (counted from 0)."""


class _Asha(NotPickled, Fifo, AsyncHyperBandScheduler):
    """ASHA over the epochs of the trial folders; records the trials that it stops."""

    def __init__(self, proposer: Proposer, root: Path, on_stop: Callable[[str], object]):
        epochs = proposer.trials()[0].config.epochs
        super().__init__(
            time_attr="epoch",
            metric=proposer.score,
            mode="max" if higher_is_better(proposer.score) else "min",
            max_t=max(epochs, GRACE),
            grace_period=GRACE,
        )
        self._proposer, self._root, self._on_stop = proposer, root, on_stop
        self._seen: dict[str, dict[int, float]] = {}
        self._spent: dict[str, float] = {}

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Return Tune's decision to continue or to stop a trial."""
        score = self._proposer.score
        if score not in result:
            return TrialScheduler.CONTINUE
        key, epoch = trial.config["key"], result["epoch"]
        values = self._seen.setdefault(key, self._committed(key))
        values[epoch] = result[score]
        self._spent[key] = (
            self._spent.get(key, 0.0) + result["time/train_s"] + result["time/eval_s"]
        )
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self._proposer.stop(key, epoch, values, self._spent[key])
            self._on_stop(key)
        return decision

    def _committed(self, key: str) -> dict[int, float]:
        """Return the scores of epochs that Tune does not know, because an earlier driver ran them."""
        lines = read_lines(trial_folder(self._root, key) / "epochs.jsonl")
        self._spent[key] = sum(
            line["metrics"]["time/train_s"] + line["metrics"]["time/eval_s"] for line in lines
        )
        return {line["epoch"]: line["metrics"][self._proposer.score] for line in lines}


def train(
    proposers: Sequence[Proposer],
    winners: Callable[[Any], Sequence[Trial]],
    options: Options,
    generation: int,
    progress: StudyProgress,
    on_lost: Callable[[str], int],
) -> str:
    """Tune every optimizer, and train the winners. Result and errors: see `execute.train`.

    Args:
        proposers: A proposer for each optimizer.
        winners: Creates the folders of the missing trials of a proposer's winner, and returns the
            trials.
        options: The command line.
        generation: Number of this driver for the output folder.
        progress: The display of trials and epochs.
        on_lost: As for `execute.train`.
    """
    expected = [
        trial for proposer in proposers for trial in proposer.trials()[:1] * proposer.budget
    ]
    finished = False
    with session(expected, options, generation, on_lost) as running:
        finished = all(_tune(running, proposer, progress) for proposer in proposers)
        if finished:
            fresh = [trial for proposer in proposers for trial in winners(proposer)]
            for trial in fresh:
                progress.add(trial)
            finished = not running.grid(fresh, progress)
    return running.ended(finished)


def _tune(running: Session, proposer: Proposer, progress: StudyProgress) -> bool:
    """Run one optimizer's search; return True if it is complete, False if it was stopped."""
    repeat = proposer.left() > 0
    while repeat:
        asha, root = proposer.asha, running.options.root
        scheduler = _Asha(proposer, root, progress.finished) if asha else Fifo()
        limit = partial(room, running.options)
        searcher = Submitter(proposer.next, lambda: True, limit, progress.add)
        # ASHA decides after each epoch, so it needs each result.
        space = {"report_every": 0.0} if asha else {}
        dropped = running.fit(
            progress, space, search_alg=searcher, scheduler=scheduler, num_samples=-1
        )
        repeat = running.should_continue(proposer.left(), dropped)
        proposer.begin()
    return proposer.left() == 0
