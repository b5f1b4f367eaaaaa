"""Run Ray Tune over trial keys, with reused actors.

Tune's logs, checkpoints and restore are not used, because the trial folders contain everything. The
import takes a second, so other modules import this one inside functions.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# This is Tune's default for a grid. By default, a search starts one worker at a time.
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "200")

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

# Tune passes these variables to its workers, and Ray writes them to a log that every user of the
# machine may read. The workers of this project need no keys of AWS.
AWS_VARIABLES = [name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
ENV_VARS_TO_PROPAGATE.difference_update(AWS_VARIABLES)

# Usage statistics are off, and Tune would import mlflow for them.
usage.tag_callbacks = lambda callbacks: False
tune.Stopper.register(Stop)


@dataclass
class Session:
    """A running Ray, in which Tuners run one after another.

    Attributes:
        options: The command line, with the measured share of a GPU.
        space: The settings that all workers share.
        stop: Ends the session early.
        signals: A name for each SIGTERM received.
        started: The start on the monotonic clock.
    """

    options: Options
    space: dict[str, Any]
    stop: Stop
    signals: list[str]
    started: float

    def grid(self, trials: Sequence[Trial], progress: StudyProgress) -> list[Trial]:
        """Train trials; return the trials without a status, because training was stopped."""
        left, repeat = list(trials), bool(trials)
        while repeat:
            keys = tune.grid_search([trial.config.trial_key for trial in left])
            limits = {"scheduler": Fifo(), "max_concurrent_trials": self._max_concurrent()}
            dropped = self.fit(progress, {"key": keys}, **limits)
            left = [trial for trial in left if self._status(trial) is None]
            repeat = self.should_continue(len(left), dropped)
        return left

    def _status(self, trial: Trial) -> dict[str, Any] | None:
        return read_status(trial_folder(self.options.root, trial.config.trial_key))

    def should_continue(self, left: int, dropped: int) -> bool:
        """Return True if another Tuner is needed, because Tune dropped all trials that are left."""
        return 0 < left <= dropped and not (self.signals or self.stop.problem)

    def fit(self, progress: StudyProgress, space: Mapping[str, Any], **settings: Any) -> int:
        """Run a Tuner over trial keys; return the number of trials that Tune dropped.

        Tune drops a trial whose worker dies while the worker changes from another trial to this
        one, regardless of `max_failures`: it counts the failure twice, and the second time the
        trial is not running.

        Args:
            progress: The display of epochs and ended trials.
            space: The trials' keys, and settings that replace those of the session's `space`.
            settings: Other arguments of `tune.TuneConfig`.
        """
        budget = self._budget_left()
        if budget == 0:
            return 0
        no_checkpoints = tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False)
        with tempfile.TemporaryDirectory(prefix="tune-") as scratch, _small_arguments(self.options):
            tuner = tune.Tuner(
                _trainable(self.options),
                param_space={**self.space, **space, "gpus": self.options.gpus_per_trial},
                tune_config=tune.TuneConfig(reuse_actors=True, time_budget_s=budget, **settings),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    verbose=0,
                    # Tune's reporter for notebooks would delete the output of the running cell.
                    progress_reporter=tune.CLIReporter(),
                    callbacks=[_Report(progress, self.options.root)],
                    stop=cast(Any, self.stop),
                    # The trial folder counts the workers lost since its last commit instead.
                    failure_config=tune.FailureConfig(max_failures=-1),
                    checkpoint_config=no_checkpoints,
                ),
            )
            with _sigint_handler_kept():
                return tuner.fit().num_errors

    def ended(self, finished: bool) -> str:
        """Return the reason for the end of the session: `done`, `SIGINT`, `SIGTERM` or `budget`.

        Raises:
            StoreError: A worker reported a problem, or the cluster was lost.
        """
        if self.stop.problem:
            raise StoreError(self.stop.problem)
        if self.signals:
            return "SIGTERM"
        if self._budget_left() == 0:
            return "budget"
        # Tune handles SIGINT itself and returns early, without raising.
        return "done" if finished else "SIGINT"

    def _budget_left(self) -> float | None:
        budget = self.options.time_budget
        return None if budget is None else max(0.0, budget - (time.monotonic() - self.started))

    def _max_concurrent(self) -> int | None:
        """Return the largest number of concurrent trials; None for as many as there is room for."""
        processes, limit = self.options.workers_per_trial, self.options.max_concurrent
        if processes == 1:
            return limit
        # The function that Tune runs waits for the trial's processes, which need CPUs of their
        # node. Without a limit, trials would wait for each other's CPUs for ever.
        room = max(1, int(ray.cluster_resources().get("CPU", 1)) // processes)
        return min(limit or room, room)


@contextmanager
def _sigint_handler_kept() -> Iterator[None]:
    """Restore the handler of SIGINT. Tune's handler stays installed and would ignore a Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


class NotPickled:
    """An object that Tune does not copy or pickle, as it would for a restore (not used here)."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Report(NotPickled, tune.Callback):
    """Passes Tune's events on to the progress display."""

    def __init__(self, progress: StudyProgress, root: Path):
        self._progress, self._root = progress, root

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: Any, **_: Any
    ) -> None:
        """Display an epoch."""
        if "epoch" in result:
            self._progress.epoch(trial.config["key"], result["epoch"], result)

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        """Display that a worker was lost, perhaps with its node."""
        self._progress.lost(trial.config["key"])

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        """Display the end of a trial, unless Tune only stopped it."""
        status = read_status(trial_folder(self._root, trial.config["key"]))
        if status is not None:
            self._progress.finished(trial.config["key"], status["status"], status.get("reason", ""))


class Fifo(FIFOScheduler):
    """Runs trials in their order, but skips a trial whose new worker is starting.

    Without this, Tune gives such a trial to a free worker and ends the worker that is starting. If
    trials end faster than a worker starts, a node that joins late would never train anything.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """Return the first trial that waits for a worker."""
        controller = tune_controller._tune_controller  # the wrapper warns of private attributes
        actors, starting = controller._trial_to_actor, controller._actor_manager.is_actor_started
        for trial in (t for t in controller.get_trials() if t.status == TuneTrial.PENDING):
            if trial not in actors or not starting(actors[trial]):
                return trial
        return None


# ---------------------------------------------------------------------- workers without Tune


class _Trial(tune.Trainable):
    """Stands for `TrialTrainable` in the driver, where Tune requires a subclass of `Trainable`."""


class _Workers(_ActorClassCache):
    """Creates actors of `TrialTrainable` for `_Trial`.

    These actors do not import Tune. They also need no particular environment, so Ray runs them in
    processes that it has already started.
    """

    def get(self, trainable_cls: Any) -> Any:
        if not issubclass(trainable_cls, _Trial):
            return super().get(trainable_cls)
        return self._cache.setdefault(trainable_cls, ray.remote(TrialTrainable))


tune_controller._ActorClassCache = _Workers


@contextmanager
def _small_arguments(options: Options) -> Iterator[None]:
    """Remove Tune's objects from the arguments of workers, which would import Tune to read them."""
    kinds = [StorageContext, _TrialInfo] if options.workers_per_trial == 1 else []
    for kind in kinds:
        ray.util.register_serializer(kind, serializer=lambda _: None, deserializer=return_none)
    try:
        yield
    finally:
        for kind in kinds:
            ray.util.deregister_serializer(kind)


def _trainable(options: Options) -> Any:
    """Return the trainable that Tune runs, with its resources."""
    if options.workers_per_trial == 1:
        return tune.with_resources(_Trial, {"cpu": 1, "gpu": cast(float, options.gpus_per_trial)})
    minimum = tune.PlacementGroupFactory([{"memory": 1}])  # 1 byte: Tune requires a resource
    return tune.with_resources(train_team, minimum)
