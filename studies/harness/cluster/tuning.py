"""Ray Tune: a Tuner over trial keys on reused actors. Imported late, because it takes a second.

Tune's own logs, checkpoints and restore are not used: the trial folders contain everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "200")  # as in a grid; otherwise a search starts workers singly

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
from studies.harness.cluster.resources import Cluster
from studies.harness.cluster.stopping import Stop
from trainables.ray_trainable import TrialTrainable, nothing, train_team
from trainables.store import read_status, trial_folder
from trainables.train import score

# Ray writes what Tune passes to its workers into a log that every user of the machine may read; ours need no keys.
ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])


def _no_tags(callbacks: object) -> bool:
    return False


usage.tag_callbacks = _no_tags  # usage statistics, which are off; for their sake Tune imports mlflow


def fit(
    cluster: Cluster,
    space: Mapping[str, Any],
    progress: StudyProgress,
    stop: Stop,
    *,
    root: Path,
    scratch: str,
    **settings: Any,
) -> int:
    """Run a Tuner; return the number of trials that Tune dropped.

    Tune drops a trial whose worker dies while it takes the trial over from another, whatever `max_failures` is: it
    counts the failure twice, and the second time the trial is no longer running.

    Args:
        cluster: Where trials run.
        space: The trials' keys, and what every worker gets beside its key.
        progress: Shows every epoch and every end.
        stop: Ends the Tuner early.
        root: The output folder.
        scratch: A folder that Tune may write to.
        settings: Further arguments of `tune.TuneConfig`.
    """
    with _small_arguments(cluster):
        tuner = tune.Tuner(
            _trainable(cluster),
            param_space={**space, "gpus": cluster.gpus_per_trial},
            tune_config=tune.TuneConfig(reuse_actors=True, **settings),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                callbacks=[_Report(progress, root)],
                stop=_Stopper(stop),
                # Lost workers are counted in the trial folder, where progress resets the count.
                failure_config=tune.FailureConfig(max_failures=-1),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        return tuner.fit().num_errors


class _Report(tune.Callback):
    """Passes Tune's events on to the progress display."""

    def __init__(self, progress: StudyProgress, root: Path):
        self._progress, self._root = progress, root

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never requested

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **_: Any
    ) -> None:
        """Show an epoch."""
        if "epoch" in result:
            self._progress.epoch(trial.config["key"], result["epoch"], score(result))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """Show that a worker is lost, perhaps with its node."""
        self._progress.lost(trial.config["key"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """Show the end of a trial, unless it was only stopped."""
        status = read_status(trial_folder(self._root, trial.config["key"]))
        if status is not None:
            self._progress.finished(trial.config["key"], status["status"], status.get("reason", ""))


class _Stopper(tune.Stopper):
    """Makes a `Stop` one of Tune's stoppers."""

    def __init__(self, stop: Stop):
        self._stop = stop

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._stop(trial_id, result)

    def stop_all(self) -> bool:
        return self._stop.stop_all()


class Fifo(FIFOScheduler):
    """Trials in their order, except that a free worker takes no trial whose own worker is starting.

    Otherwise Tune ends that worker for it, and the next in the same way: where trials end faster than a worker starts,
    a node that joins late would never train anything.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """Return the first trial that waits for a worker."""
        controller = tune_controller._tune_controller  # behind a wrapper that warns of private attributes
        actors, starting = controller._trial_to_actor, controller._actor_manager.is_actor_started
        waiting = (trial for trial in controller.get_trials() if trial.status == TuneTrial.PENDING)
        return next((trial for trial in waiting if trial not in actors or not starting(actors[trial])), None)


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
def _small_arguments(cluster: Cluster) -> Iterator[None]:
    """Keep Tune's own objects out of the arguments of `TrialTrainable`: a worker would import Tune to read them."""
    kinds = [StorageContext, _TrialInfo] if cluster.workers_per_trial == 1 else []
    for kind in kinds:
        ray.util.register_serializer(kind, serializer=lambda _: None, deserializer=nothing)
    try:
        yield
    finally:
        for kind in kinds:
            ray.util.deregister_serializer(kind)


def _trainable(cluster: Cluster) -> Any:
    """Return what Tune runs, with the resources that it needs."""
    if cluster.workers_per_trial == 1:
        needs: dict[str, Any] = {"cpu": 1, "gpu": cluster.gpus_per_trial}
        return tune.with_resources(_Trial, needs)
    least = tune.PlacementGroupFactory([{"memory": 1}])  # one byte: Tune requires something to place
    return tune.with_resources(train_team, least)
