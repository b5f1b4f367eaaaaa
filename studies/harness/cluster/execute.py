"""Ray: train what is missing. Only this file, `stopping`, `search_tune`, `cluster` and `local_cluster` import it.

One Tuner runs a grid over trial keys on reused actors. Tune's own logs, checkpoints and restore are not used: whatever
it loses is in the trial folders.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "200")  # as for a grid; a search's workers would start singly

import ray
from ray import tune
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

from studies.harness.cluster import local as local_cluster
from studies.harness.cluster.inspect import connect, measured_share
from studies.harness.cluster.progress import StudyProgress
from studies.harness.cluster.stopping import Stop, signals_wait
from studies.harness.design.arms import Trial
from trainables.ray_trainable import REPORT_SECONDS, TrialTrainable, train_team
from trainables.store import StoreError, read_status, trial_folder
from trainables.train import score

# What Tune passes to its workers Ray writes into a log that everybody on the machine may read. Ours need no keys.
ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where trials run, and how many at once.

    Attributes:
        address: Of a running cluster, `auto` or host:port; None starts one here, with a slot per core.
        max_concurrent: At most so many trials at once; None for as many as fit.
        gpus_per_trial: Share of a GPU for each; None measures how many trials a GPU carries.
        time_budget: Seconds after which no more is trained; None for no limit.
        workers_per_trial: Processes that share each batch of a trial.
    """

    address: str | None = None
    max_concurrent: int | None = None
    gpus_per_trial: float | None = 0.0
    time_budget: float | None = None
    workers_per_trial: int = 1


class _Report(tune.Callback):
    """Passes what Tune sees on to the progress display."""

    def __init__(self, progress: StudyProgress, root: Path):
        self._progress, self._root = progress, root

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that we never ask for

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **_: Any
    ) -> None:
        """One epoch is done."""
        if "epoch" in result:
            self._progress.epoch(trial.config["key"], result["epoch"], score(result))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """A worker is lost, perhaps with its node."""
        self._progress.lost(trial.config["key"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """A trial has ended, unless it was only stopped."""
        status = read_status(trial_folder(self._root, trial.config["key"]))
        if status is not None:
            self._progress.finished(trial.config["key"], status["status"], status.get("reason", ""))


class Fifo(FIFOScheduler):
    """Trials in their order, except that a free worker takes none whose own worker is starting.

    Tune would end that one for it, and so the next: where trials end faster than a worker starts, a node that joins
    late would never train anything.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """The first that waits for a worker."""
        controller = tune_controller._tune_controller  # behind a wrapper that warns of private attributes
        own, starting = controller._trial_to_actor, controller._actor_manager.is_actor_started
        waiting = (trial for trial in controller.get_trials() if trial.status == TuneTrial.PENDING)
        return next((trial for trial in waiting if trial not in own or not starting(own[trial])), None)


def train(
    trials: Sequence[Trial], root: Path, cluster: Cluster, worker: Mapping[str, Any], progress: StudyProgress
) -> str:
    """Train trials, whose folders exist, until each has a terminal status or something stops it.

    Args:
        trials: What to train.
        root: The output folder.
        cluster: Where.
        worker: What every worker gets beside its key: `generation`, `provenance`, `commit_every`, `diagnostics`,
            `data_dir`, `fingerprint`.
        progress: Told of every epoch and every end.

    Returns:
        What ended it: `done`, `SIGINT`, `SIGTERM` or `budget`; trials may be left after the last three.

    Raises:
        StoreError: No cluster could be reached or started, it was lost, or a worker met data or a folder that it cannot
            use, or is on a node that is not fit; its trial stays in flight.
    """
    left = list(trials)
    with session(trials, root, cluster, worker) as running:
        left = running.grid(trials, progress)
    return running.ended(finished=not left)


@dataclass
class Session:
    """Ray while it is up: Tuners run in it one after another."""

    root: Path
    cluster: Cluster
    space: dict[str, Any]  # what every trial gets beside its key
    scratch: str  # where Tune may write
    stop: Stop
    caught: list[str]  # signals that came, by name
    started: float

    def grid(self, trials: Sequence[Trial], progress: StudyProgress) -> list[Trial]:
        """Train trials; returns those that are left, since something stops it."""
        left, again = list(trials), bool(trials)
        while again:
            keys = tune.grid_search([trial.config.trial_key for trial in left])
            how = {"scheduler": Fifo(), "max_concurrent_trials": _at_once(self.cluster)}
            dropped = self.fit(progress, {"key": keys}, **how)
            left = _unfinished(left, self.root)
            again = self.goes_on(len(left), dropped)
        return left

    def goes_on(self, left: int, dropped: int) -> bool:
        """Whether to run another Tuner for what one has left: only for trials that it dropped."""
        return 0 < left <= dropped and not (self.caught or self.stop.problem)  # more: it was told to stop

    def fit(self, progress: StudyProgress, space: Mapping[str, Any], **how: Any) -> int:
        """Run a Tuner, which reports to `progress`; returns how many trials Tune has dropped.

        It drops one whose worker dies while it takes the trial up from another, whatever `max_failures` says: the
        failure is counted twice, and the second finds the trial no longer running.
        """
        if (budget := self._budget_left()) == 0:
            return 0
        tuner = tune.Tuner(
            _trainable(self.cluster),
            param_space={**self.space, "gpus": self.cluster.gpus_per_trial, **space},
            tune_config=tune.TuneConfig(reuse_actors=True, time_budget_s=budget, **how),
            run_config=tune.RunConfig(
                storage_path=self.scratch,
                verbose=0,
                callbacks=[_Report(progress, self.root)],
                stop=self.stop,
                # Lost workers are counted in the trial folder, where progress resets the count.
                failure_config=tune.FailureConfig(max_failures=-1),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        return tuner.fit().num_errors

    def ended(self, finished: bool) -> str:
        """What ended it, once it is over: `done`, `SIGINT`, `SIGTERM` or `budget`.

        Raises:
            StoreError: There was a problem.
        """
        if self.stop.problem:
            raise StoreError(self.stop.problem)
        if self.caught:
            return "SIGTERM"
        if self._budget_left() == 0:
            return "budget"
        # Tune handles SIGINT by itself and returns early, without raising.
        return "done" if finished else "SIGINT"

    def _budget_left(self) -> float | None:
        budget = self.cluster.time_budget
        return None if budget is None else max(0.0, budget - (time.monotonic() - self.started))


@contextmanager
def session(trials: Sequence[Trial], root: Path, cluster: Cluster, worker: Mapping[str, Any]) -> Iterator[Session]:
    """Ray, started or connected to for some trials; parameters and errors as those of `train`."""
    handler = signal.getsignal(signal.SIGTERM)
    with signals_wait():
        _start(cluster, len(trials))
    started, stop = time.monotonic(), Stop()
    try:
        with stop.watching():
            if cluster.gpus_per_trial is None:
                configs = [trial.config for trial in trials]
                share = measured_share(configs, root, cluster.workers_per_trial, worker["data_dir"])
                cluster = replace(cluster, gpus_per_trial=share)
            with tempfile.TemporaryDirectory(prefix="tune-") as scratch, _signals() as caught:
                space = {**worker, "root": str(root.absolute()), "report_every": REPORT_SECONDS}
                with _between_tuners(caught):
                    yield Session(root, cluster, space, scratch, stop, caught, started)
    finally:
        signal.signal(signal.SIGTERM, handler)


def _unfinished(trials: Sequence[Trial], root: Path) -> list[Trial]:
    return [trial for trial in trials if read_status(trial_folder(root, trial.config.trial_key)) is None]


def _start(cluster: Cluster, trials: int) -> None:
    if cluster.address is not None:
        connect(cluster.address)
    else:
        cores = len(os.sched_getaffinity(0))
        wanted = (cluster.max_concurrent or cores) * cluster.workers_per_trial
        slots = min(wanted, cores, trials * cluster.workers_per_trial)
        local_cluster.start(slots)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker is a line of ours, no traceback


@contextmanager
def _signals() -> Iterator[list[str]]:
    """SIGTERM takes Tune's SIGINT path; yields the names of what came."""
    caught: list[str] = []

    def note(number: int, frame: Any) -> None:
        caught.append("SIGTERM")
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGTERM, note)
    yield caught


@contextmanager
def _between_tuners(caught: Sequence[str]) -> Iterator[None]:
    """Ends the session where SIGTERM comes while no Tuner runs, which would take it."""
    try:
        yield
    except KeyboardInterrupt:
        if not caught:
            raise


def _trainable(cluster: Cluster) -> Any:
    """What Tune runs, with what it needs."""
    if cluster.workers_per_trial == 1:
        needs = {"cpu": 1, "gpu": cluster.gpus_per_trial}
        return tune.with_resources(TrialTrainable, needs)
    least = tune.PlacementGroupFactory([{"memory": 1}])  # a byte: Tune wants to place something
    return tune.with_resources(train_team, least)


def _at_once(cluster: Cluster) -> int | None:
    """At most how many trials at once; None for as many as fit."""
    if cluster.workers_per_trial == 1:
        return cluster.max_concurrent
    # What Tune runs only waits for the workers, which ask for CPUs of their own: more of them would starve each other.
    fitting = max(1, int(ray.cluster_resources().get("CPU", 1)) // cluster.workers_per_trial)
    return min(cluster.max_concurrent or fitting, fitting)
