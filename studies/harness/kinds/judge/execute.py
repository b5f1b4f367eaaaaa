"""The execution of a judgement: tune the sides, then train pairs until there is a decision."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.design.arms import Trial
from studies.harness.design.ending import SOME_FAILED, STOPS, Stopped
from studies.harness.evidence import status
from studies.harness.kinds.artefact import Driver
from studies.harness.kinds.judge import ledger
from studies.harness.kinds.judge.judge_plan import JudgePlan
from studies.harness.kinds.judge.results import Results, results
from studies.harness.kinds.study.execute import prepare
from trainables.store import read_status, trial_folder

BUDGET = "budget"  # the end of the time budget, after which the verdict is "inconclusive"


def execute(plans: Sequence[JudgePlan], driver: Driver) -> None:
    """Train the trials of the judgements one after another.

    Raises:
        Stopped: A signal ended the training, or the baseline has no result.
    """
    from studies.harness.cluster import pairs
    from studies.harness.cluster.progress import StudyProgress

    for plan in plans:
        ledger.begin(plan)
        source = PairSource(plan)
        expected = plan.artefact.missing(plan).trials
        number, epochs = amount(plan, expected)
        progress = StudyProgress([], driver.console, unnamed=number, epochs=epochs)
        with progress:
            ending = pairs.train(
                source, expected, driver.options, driver.generation, progress, driver.on_lost
            )
        if ending in STOPS and ending != BUDGET and not source.finished():
            raise Stopped(*STOPS[ending])
        if problem := results(plan).problem:
            raise Stopped(SOME_FAILED, problem)


def amount(plan: JudgePlan, expected: Sequence[Trial]) -> tuple[int, int]:
    """Return the largest number of trials that a judgement may train, and of their epochs.

    Args:
        plan: The plan.
        expected: The missing trials that are known. Before the tuning is complete, they do not
            contain those of the pairs.
    """
    number, epochs = len(expected), sum(trial.config.epochs for trial in expected)
    if results(plan).sides is None:
        pairs = [
            arm.resolve(scale.workload, plan.recipe) for scale in plan.scales for arm in plan.arms
        ]
        number += len(plan.seeds) * len(pairs)
        epochs += len(plan.seeds) * sum(config.epochs for config in pairs)
    return number, epochs


class PairSource:
    """Submits the trials of the tuning, and then pairs until all candidates are decided.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: JudgePlan):
        self._plan = plan
        self._submitted: dict[str, Trial] = {}
        self._results = results(plan)

    def begin(self) -> None:
        """Forget the submissions, so that `next` also returns submitted trials that have not ended."""
        self._submitted, self._results = {}, results(self._plan)

    def next(self, room: int) -> Trial | None:
        """Create the folder of the next trial and return the trial; None without one for now.

        The trial belongs to one of the first pairs with a missing result: as many pairs as there is
        room for, and at least one.

        Args:
            room: The number of trials that can be trained at once.
        """
        self._update()
        ready = [t for t in self._waiting(room) if t.config.trial_key not in self._submitted]
        if not ready:
            return None
        trial = ready[0]
        prepare([trial], self._plan.root)
        self._submitted[trial.config.trial_key] = trial
        return trial

    def finished(self) -> bool:
        """Return True if no trial is needed any more."""
        self._update()
        return self._results.done

    def left(self) -> int:
        """Return the number of submitted trials that have not ended."""
        return sum(not self._ended(trial) for trial in self._submitted.values())

    def _waiting(self, room: int) -> list[Trial]:
        if self._results.sides is None:
            return status.missing(self._plan.tuning_trials, self._plan.root)
        sides = 1 + len(self._results.inconclusive)
        return self._results.needed(max(1, room // (sides * len(self._plan.scales))))

    def _update(self) -> None:
        """Read the results again if a submitted trial has ended."""
        ended = [key for key, trial in self._submitted.items() if self._ended(trial)]
        for key in ended:
            del self._submitted[key]
        if ended:
            self._results: Results = results(self._plan)

    def _ended(self, trial: Trial) -> bool:
        return read_status(trial_folder(self._plan.root, trial.config.trial_key)) is not None
