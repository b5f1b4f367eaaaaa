"""Ray Tune under a search: one Tuner for each optimizer, one after another, then the winners under fresh seeds.

Tune asks for the next trial whenever a slot is free; what to train, and what is known of it, is in the folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from studies.harness.cluster.execute import Cluster, Session, session
from studies.harness.cluster.tuning import Fifo
from studies.harness.cluster.progress import StudyProgress
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.search import SCORE
from studies.harness.kinds.study.study import Trial
from trainables.files import read_lines
from trainables.store import trial_folder

GRACE = 1  # the first epoch (from 0) after which ASHA may stop a trial


class _Kept:
    """Not copied and not pickled, which Tune does with what it is given, for a restore that we never ask for."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asker(_Kept, Searcher):
    """Tune's searcher: hands out a proposer's trials, no more at once than there is room for."""

    def __init__(self, proposer: Proposer, at_once: Callable[[], int], told: Callable[[Trial], object]):
        super().__init__()
        self._proposer, self._at_once, self._told = proposer, at_once, told
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The next trial's key; None for the time being, or that there is none left."""
        if len(self._live) >= self._at_once():  # a proposal that waits would not know of what ends meanwhile
            return None
        trial = self._proposer.next()
        if trial is None:
            return Searcher.FINISHED
        self._live.add(trial_id)
        self._told(trial)
        return {"key": trial.config.trial_key}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A slot is free; the result is in the trial's folder."""
        self._live.discard(trial_id)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """The space is the proposer's; Tune's has only what all trials share."""
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the proposals are on the disk already."""


class _Asha(_Kept, Fifo, AsyncHyperBandScheduler):
    """ASHA by our epochs, that notes where it ends a trial."""

    def __init__(self, proposer: Proposer, epochs: int, told: Callable[[str], object]):
        super().__init__(time_attr="epoch", metric=SCORE, mode="max", max_t=max(epochs, GRACE), grace_period=GRACE)
        self._proposer, self._told = proposer, told
        self._seen: dict[str, dict[int, float]] = {}
        self._spent: dict[str, float] = {}

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Whether a trial goes on."""
        if SCORE not in result:
            return TrialScheduler.CONTINUE
        key, epoch = trial.config["key"], result["epoch"]
        values = self._seen.setdefault(key, self._committed(key))
        values[epoch] = result[SCORE]
        self._spent[key] = self._spent.get(key, 0.0) + result["time/train_s"] + result["time/eval_s"]
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self._proposer.stop(key, epoch, values, self._spent[key])
            self._told(key)
        return decision

    def _committed(self, key: str) -> dict[int, float]:
        """Scores of the epochs before this driver's, which Tune does not know of."""
        lines = read_lines(trial_folder(self._proposer.root, key) / "epochs.jsonl")
        self._spent[key] = sum(line["metrics"]["time/train_s"] + line["metrics"]["time/eval_s"] for line in lines)
        return {line["epoch"]: line["metrics"][SCORE] for line in lines}


def train(
    proposers: Sequence[Proposer],
    winners: Callable[[Proposer], Sequence[Trial]],
    root: Path,
    cluster: Cluster,
    worker: Mapping[str, Any],
    progress: StudyProgress,
) -> str:
    """Tune every optimizer, and train the winners.

    Args:
        proposers: Of each optimizer.
        winners: The trials still missing of the one that a search has chosen, their folders made.
        root: The output folder.
        cluster: Where.
        worker: As for `execute.train`.
        progress: Told of every trial, every epoch and every end.

    Returns:
        What ended it: `done`, `SIGINT`, `SIGTERM` or `budget`.

    Raises:
        StoreError: As `execute.train`.
    """
    expected = [trial for proposer in proposers for trial in proposer.trials()[:1] * proposer.budget]
    finished = False
    with session(expected, root, cluster, worker) as running:
        finished = all(_tune(running, proposer, progress) for proposer in proposers)
        if finished:
            fresh = [trial for proposer in proposers for trial in winners(proposer)]
            for trial in fresh:
                progress.add(trial)
            finished = not running.grid(fresh, progress)
    return running.ended(finished)


def _tune(running: Session, proposer: Proposer, progress: StudyProgress) -> bool:
    """Run one optimizer's search to its end; False if something stops it."""
    again = proposer.left() > 0
    while again:
        asha, epochs = proposer.plan.search.asha, proposer.trials()[0].config.epochs
        scheduler = _Asha(proposer, epochs, progress.stopped) if asha else Fifo()
        asker = _Asker(proposer, lambda: _room(running.cluster), progress.add)
        # ASHA decides after each epoch, so it must hear of each.
        space = {"report_every": 0.0} if asha else {}
        dropped = running.fit(progress, space, search_alg=asker, scheduler=scheduler, num_samples=-1)
        again = running.goes_on(proposer.left(), dropped)
        proposer.begin()
    return proposer.left() == 0


def _room(cluster: Cluster) -> int:
    """How many trials there is room for now; on a cluster that may grow one more, which makes it grow."""
    resources = ray.cluster_resources()
    fitting = int(resources.get("CPU", 0)) // cluster.workers_per_trial
    if cluster.gpus_per_trial:
        fitting = min(fitting, int(resources.get("GPU", 0) / (cluster.gpus_per_trial * cluster.workers_per_trial)))
    fitting = max(1, fitting + (cluster.address is not None))
    return min(cluster.max_concurrent or fitting, fitting)
