"""Ray Tune: Tuners over trial keys on reused actors. Imported late, because it takes a second.

Tune's own logs, checkpoints and restore are not used: the trial folders contain everything.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault(
    "TUNE_MAX_PENDING_TRIALS_PG", "200"
)  # as in a grid; otherwise a search starts workers singly

import ray
from ray import tune
from ray.air._internal import usage
from ray.train._internal.storage import StorageContext
from ray.tune.execution import tune_controller
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE, _ActorClassCache
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.experiment.trial import _TrialInfo
from ray.tune.schedulers import FIFOScheduler

from studies.harness.cluster.progress import StudyProgress
from studies.harness.cluster.stopping import Stop
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from trainables.ray_trainable import TrialTrainable, return_none, train_team
from trainables.store import StoreError, read_status, trial_folder
from trainables.train import score

# Ray writes what Tune passes to its workers into a log that every user of the machine may read; ours need no keys.
ENV_VARS_TO_PROPAGATE.difference_update(
    [name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
)


usage.tag_callbacks = lambda callbacks: (
    False
)  # usage statistics, which are off; for their sake Tune imports mlflow
tune.Stopper.register(Stop)


@dataclass
class Session:
    """Ray while it is up: Tuners run in it one after another.

    Attributes:
        options: The command line; the share of a GPU is measured.
        space: What every worker gets beside its key.
        stop: Ends the session early.
        caught: Names of the signals received.
        started: When, on the monotonic clock.
    """

    options: Options
    space: dict[str, Any]
    stop: Stop
    caught: list[str]
    started: float

    def grid(self, trials: Sequence[Trial], progress: StudyProgress) -> list[Trial]:
        """Train trials; return those that are left because training was stopped."""
        left, repeat = list(trials), bool(trials)
        while repeat:
            keys = tune.grid_search([trial.config.trial_key for trial in left])
            limits = {"scheduler": Fifo(), "max_concurrent_trials": self._most_at_once()}
            dropped = self.fit(progress, {"key": keys}, **limits)
            left = [
                t
                for t in left
                if read_status(trial_folder(self.options.root, t.config.trial_key)) is None
            ]
            repeat = self.goes_on(len(left), dropped)
        return left

    def goes_on(self, left: int, dropped: int) -> bool:
        """Return True if another Tuner should train what is left, because Tune dropped all of it."""
        return 0 < left <= dropped and not (self.caught or self.stop.problem)

    def fit(self, progress: StudyProgress, space: Mapping[str, Any], **settings: Any) -> int:
        """Run a Tuner over trial keys; return the number of trials that Tune dropped.

        Tune drops a trial whose worker dies while it takes the trial over from another, whatever `max_failures` is: it
        counts the failure twice, and the second time the trial is no longer running.

        Args:
            progress: Shows every epoch and every end.
            space: The trials' keys, and what differs from the session's `space`.
            settings: Further arguments of `tune.TuneConfig`.
        """
        budget = self._budget_left()
        if budget == 0:
            return 0
        with tempfile.TemporaryDirectory(prefix="tune-") as scratch, _small_arguments(self.options):
            tuner = tune.Tuner(
                _trainable(self.options),
                param_space={**self.space, **space, "gpus": self.options.gpus_per_trial},
                tune_config=tune.TuneConfig(reuse_actors=True, time_budget_s=budget, **settings),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[_Report(progress, self.options.root)],
                    stop=cast(Any, self.stop),
                    # Lost workers are counted in the trial folder, where progress resets the count.
                    failure_config=tune.FailureConfig(max_failures=-1),
                    checkpoint_config=tune.CheckpointConfig(
                        checkpoint_frequency=0, checkpoint_at_end=False
                    ),
                ),
            )
            return tuner.fit().num_errors

    def ended(self, finished: bool) -> str:
        """Return the reason for the end, once it is over: `done`, `SIGINT`, `SIGTERM` or `budget`.

        Raises:
            StoreError: There was a problem.
        """
        if self.stop.problem:
            raise StoreError(self.stop.problem)
        if self.caught:
            return "SIGTERM"
        if self._budget_left() == 0:
            return "budget"
        # Tune handles SIGINT itself and returns early, without raising.
        return "done" if finished else "SIGINT"

    def _budget_left(self) -> float | None:
        budget = self.options.time_budget
        return None if budget is None else max(0.0, budget - (time.monotonic() - self.started))

    def _most_at_once(self) -> int | None:
        """Return the largest number of trials at once; None for as many as there is room for."""
        processes, limit = self.options.workers_per_trial, self.options.max_concurrent
        if processes == 1:
            return limit
        # What Tune runs only waits for the trial's processes, which need CPUs too: without a limit trials would starve
        # each other.
        room = max(1, int(ray.cluster_resources().get("CPU", 1)) // processes)
        return min(limit or room, room)


class NotPickled:
    """Neither copied nor pickled by Tune, which would do both for a restore that is never requested."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Report(NotPickled, tune.Callback):
    """Passes Tune's events on to the progress display."""

    def __init__(self, progress: StudyProgress, root: Path):
        self._progress, self._root = progress, root

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        """Show an epoch."""
        if "epoch" in result:
            self._progress.epoch(trial.config["key"], result["epoch"], score(result))

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        """Show that a worker is lost, perhaps with its node."""
        self._progress.lost(trial.config["key"])

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        """Show the end of a trial, unless it was only stopped."""
        status = read_status(trial_folder(self._root, trial.config["key"]))
        if status is not None:
            self._progress.finished(trial.config["key"], status["status"], status.get("reason", ""))


class Fifo(FIFOScheduler):
    """Trials in their order, except that a free worker takes no trial whose own worker is starting.

    Otherwise Tune ends that worker for it, and the next in the same way: where trials end faster than a worker starts,
    a node that joins late would never train anything.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """Return the first trial that waits for a worker."""
        controller = (
            tune_controller._tune_controller
        )  # behind a wrapper that warns of private attributes
        actors, starting = controller._trial_to_actor, controller._actor_manager.is_actor_started
        waiting = (trial for trial in controller.get_trials() if trial.status == TuneTrial.PENDING)
        return next(
            (trial for trial in waiting if trial not in actors or not starting(actors[trial])), None
        )


# ---------------------------------------------------------------------- workers without Tune


class _Trial(tune.Trainable):
    """Takes the place of `TrialTrainable` in the driver, where Tune requires a subclass of its own class."""


class _Workers(_ActorClassCache):
    """Creates actors of `TrialTrainable` for `_Trial`.

    They do not import Tune, and have no environment of their own, so that processes which Ray has started are used.
    """

    def get(self, trainable_cls: Any) -> Any:
        if not issubclass(trainable_cls, _Trial):
            return super().get(trainable_cls)
        return self._cache.setdefault(trainable_cls, ray.remote(TrialTrainable))


tune_controller._ActorClassCache = _Workers


@contextmanager
def _small_arguments(options: Options) -> Iterator[None]:
    """Keep Tune's own objects out of the arguments of `TrialTrainable`: a worker would import Tune to read them."""
    kinds = [StorageContext, _TrialInfo] if options.workers_per_trial == 1 else []
    for kind in kinds:
        ray.util.register_serializer(kind, serializer=lambda _: None, deserializer=return_none)
    try:
        yield
    finally:
        for kind in kinds:
            ray.util.deregister_serializer(kind)


def _trainable(options: Options) -> Any:
    """Return what Tune runs, with the resources that it needs."""
    if options.workers_per_trial == 1:
        return tune.with_resources(_Trial, {"cpu": 1, "gpu": cast(float, options.gpus_per_trial)})
    least = tune.PlacementGroupFactory(
        [{"memory": 1}]
    )  # one byte: Tune requires something to place
    return tune.with_resources(train_team, least)
