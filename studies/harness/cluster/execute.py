"""Train trials on Ray: start Ray or join a cluster, run Tuners until all trials end, disconnect."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from studies.harness.cluster import local
from studies.harness.cluster.connection import connect
from studies.harness.cluster.inspect import measured_share
from studies.harness.cluster.progress import StudyProgress
from studies.harness.cluster.stopping import Stop, defer_signals, redeliver
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from studies.harness.design.signals import handlers
from trainables import plugins
from trainables.fingerprint import fingerprint, provenance
from trainables.ray_trainable import REPORT_SECONDS

if TYPE_CHECKING:
    from studies.harness.cluster.tuning import Session


def train(
    trials: Sequence[Trial],
    options: Options,
    generation: int,
    progress: StudyProgress,
    on_lost: Callable[[str], int],
    prepare: Callable[[], object],
) -> str:
    """Train trials until each has a terminal status or training is stopped.

    Args:
        trials: The trials to train.
        options: The command line: the output folder, the cluster, the time budget and the limits.
        generation: Number of this driver for the output folder; workers compare it before each
            write.
        progress: The display of epochs and ended trials.
        on_lost: Called with the reason when the cluster is lost and the process must end; returns
            the exit code.
        prepare: Creates the folders of the trials, in a thread while Ray starts.

    Returns:
        The reason for the end: `done`, `SIGINT`, `SIGTERM` or `budget`. Unless it is `done`, trials
        may be unfinished.

    Raises:
        StoreError: No cluster could be reached or started; the cluster was lost; a worker could not
            use the data or a folder; or a node does not meet the requirements. The worker's trial
            stays in flight.
    """
    unfinished = list(trials)
    with session(trials, options, generation, on_lost, prepare) as running:
        unfinished = running.grid(trials, progress)
    return running.ended(finished=not unfinished)


@contextmanager
def session(
    trials: Sequence[Trial],
    options: Options,
    generation: int,
    on_lost: Callable[[str], int],
    prepare: Callable[[], object] = lambda: None,
) -> Iterator[Session]:
    """Start Ray or join a cluster, and disconnect at the end; arguments and errors: see `train`."""
    space = _space(options, generation)
    with ThreadPoolExecutor(1) as thread, defer_signals():
        prepared = thread.submit(prepare)
        tuning = thread.submit(import_module, f"{__package__}.tuning")  # takes a second
        _start(options, len(trials))
    started, stop = time.monotonic(), Stop(on_lost)
    with stop.watching():
        prepared.result()
        if options.gpus_per_trial is None:
            share = measured_share([trial.config for trial in trials], options)
            options = replace(options, gpus_per_trial=share)
        with _signals() as signals:
            yield tuning.result().Session(options, space, stop, signals, started)


def _space(options: Options, generation: int) -> dict[str, Any]:
    """Return the settings that all workers share; copy the plugins to the output folder."""
    for path in options.plugins:
        plugins.write_copy(path, options.root)
    return {
        "generation": generation,
        "provenance": provenance(),
        "commit_every": options.commit_every,
        "diagnostics": options.diagnostics,
        "data_dir": str(options.data_dir.absolute()),
        "fingerprint": fingerprint() if options.address else None,  # only nodes can differ
        "root": str(options.root.absolute()),
        "report_every": REPORT_SECONDS,
    }


def _start(options: Options, trials: int) -> None:
    if options.address is not None:
        connect(options.address, options)
    else:
        cores, processes = len(os.sched_getaffinity(0)), options.workers_per_trial
        local.start(min((options.max_concurrent or cores) * processes, cores, trials * processes))
    # Hide tracebacks of lost workers; the progress display prints a line for each instead.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Handle SIGTERM as Tune handles SIGINT; yield a list that names each received SIGTERM."""
    received: list[str] = []

    def forward(number: int, frame: Any) -> None:
        received.append("SIGTERM")
        redeliver(signal.SIGINT)

    # The context ends before Ray's shutdown: a SIGTERM that arrives there must not become a
    # KeyboardInterrupt.
    with handlers({signal.SIGTERM: forward}):
        try:
            yield received
        except KeyboardInterrupt:  # no Tuner was running, which would have handled the signal
            if not received:
                raise
