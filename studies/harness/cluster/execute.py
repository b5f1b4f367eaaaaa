"""Train trials on Ray: start or join a cluster, run Tuners in it until the trials have ended, and shut it down."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from studies.harness.cluster import local
from studies.harness.cluster.inspect import connect, measured_share
from studies.harness.cluster.progress import StudyProgress
from studies.harness.cluster.resources import Cluster
from studies.harness.cluster.stopping import Stop, signals_wait
from studies.harness.design.arms import Trial
from trainables.ray_trainable import REPORT_SECONDS
from trainables.store import StoreError, read_status, trial_folder


def train(
    trials: Sequence[Trial],
    root: Path,
    cluster: Cluster,
    worker: Mapping[str, Any],
    progress: StudyProgress,
    on_lost: Callable[[str], int] | None = None,
    prepare: Callable[[], object] | None = None,
) -> str:
    """Train trials until each has a terminal status or training is stopped.

    Args:
        trials: What to train; their folders exist, or `prepare` creates them.
        root: The output folder.
        cluster: Where to train.
        worker: What every worker gets beside its key: `generation`, `provenance`, `commit_every`, `diagnostics`,
            `data_dir`, `fingerprint`.
        progress: Shows every epoch and every end.
        on_lost: Called with the reason when the cluster is lost and the process must end; returns the exit code.
        prepare: Work that needs no Ray, such as creating folders. It is done in a thread while Ray starts.

    Returns:
        The reason for the end: `done`, `SIGINT`, `SIGTERM` or `budget`; after the last three, trials may be left.

    Raises:
        StoreError: No cluster could be reached or started, the cluster was lost, a worker met data or a folder that it
            cannot use, or a node does not meet the requirements; the worker's trial stays in flight.
    """
    left = list(trials)
    with session(trials, root, cluster, worker, on_lost, prepare) as running:
        left = running.grid(trials, progress)
    return running.ended(finished=not left)


@dataclass
class Session:
    """Ray while it is up: Tuners run in it one after another.

    Attributes:
        root: The output folder.
        cluster: Where trials run.
        space: What every trial gets beside its key.
        scratch: A folder that Tune may write to.
        stop: Ends the session early.
        caught: Names of the signals received.
        started: When, on the monotonic clock.
    """

    root: Path
    cluster: Cluster
    space: dict[str, Any]
    scratch: str
    stop: Stop
    caught: list[str]
    started: float

    def grid(self, trials: Sequence[Trial], progress: StudyProgress) -> list[Trial]:
        """Train trials; return those that are left because training was stopped."""
        from studies.harness.cluster import tuning

        left, repeat = list(trials), bool(trials)
        while repeat:
            keys = {"grid_search": [trial.config.trial_key for trial in left]}
            limits = {"scheduler": tuning.Fifo(), "max_concurrent_trials": self._most_at_once()}
            dropped = self.fit(progress, {"key": keys}, **limits)
            left = [t for t in left if read_status(trial_folder(self.root, t.config.trial_key)) is None]
            repeat = self.goes_on(len(left), dropped)
        return left

    def goes_on(self, left: int, dropped: int) -> bool:
        """Return True if another Tuner should train what is left, because Tune dropped all of it."""
        return 0 < left <= dropped and not (self.caught or self.stop.problem)

    def fit(self, progress: StudyProgress, space: Mapping[str, Any], **settings: Any) -> int:
        """Run a Tuner, which reports to `progress`; return the number of trials that Tune dropped."""
        from studies.harness.cluster import tuning

        budget = self._budget_left()
        if budget == 0:
            return 0
        places = {"root": self.root, "scratch": self.scratch}
        space = {**self.space, **space}
        return tuning.fit(self.cluster, space, progress, self.stop, time_budget_s=budget, **places, **settings)

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
        budget = self.cluster.time_budget
        return None if budget is None else max(0.0, budget - (time.monotonic() - self.started))

    def _most_at_once(self) -> int | None:
        """Return the largest number of trials at once; None for as many as there is room for."""
        processes, limit = self.cluster.workers_per_trial, self.cluster.max_concurrent
        if processes == 1:
            return limit
        # What Tune runs only waits for the trial's processes, which need CPUs too: without a limit trials would starve
        # each other.
        room = max(1, int(ray.cluster_resources().get("CPU", 1)) // processes)
        return min(limit or room, room)


@contextmanager
def session(
    trials: Sequence[Trial],
    root: Path,
    cluster: Cluster,
    worker: Mapping[str, Any],
    on_lost: Callable[[str], int] | None = None,
    prepare: Callable[[], object] | None = None,
) -> Iterator[Session]:
    """Start Ray or connect to it for some trials; shut it down at the end. Arguments and errors: see `train`."""
    handler = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as aside, signals_wait():
        prepared = aside.submit(_prepare, prepare)
        _start(cluster, len(trials))
    started, stop = time.monotonic(), Stop(on_lost)
    try:
        with stop.watching():
            prepared.result()
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


def _prepare(work: Callable[[], object] | None) -> None:
    """Do the caller's work and import Tune, which takes a second."""
    if work is not None:
        work()
    from studies.harness.cluster import tuning  # noqa: F401


def _start(cluster: Cluster, trials: int) -> None:
    if cluster.address is not None:
        connect(cluster.address)
    else:
        cores = len(os.sched_getaffinity(0))
        wanted = (cluster.max_concurrent or cores) * cluster.workers_per_trial
        local.start(min(wanted, cores, trials * cluster.workers_per_trial))
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker is a line of progress, not a traceback


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Handle SIGTERM as Tune handles SIGINT; yield the names of the signals received."""
    caught: list[str] = []

    def note(number: int, frame: Any) -> None:
        caught.append("SIGTERM")
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGTERM, note)
    yield caught


@contextmanager
def _between_tuners(caught: Sequence[str]) -> Iterator[None]:
    """End the session if SIGTERM arrives while no Tuner runs, which would handle it."""
    try:
        yield
    except KeyboardInterrupt:
        if not caught:
            raise
