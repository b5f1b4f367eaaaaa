"""Train trials on Ray: start or join a cluster, run Tuners in it until the trials have ended, and shut it down."""

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
from studies.harness.cluster.inspect import connect, measured_share
from studies.harness.cluster.progress import StudyProgress
from studies.harness.cluster.stopping import Stop, signals_wait
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
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
        trials: What to train.
        options: The command line: the output folder, and where to train, for how long and how many at once.
        generation: Number of this driver for the output folder; workers compare it before each write.
        progress: Shows every epoch and every end.
        on_lost: Called with the reason when the cluster is lost and the process must end; returns the exit code.
        prepare: Creates the folders of the trials, in a thread while Ray starts.

    Returns:
        The reason for the end: `done`, `SIGINT`, `SIGTERM` or `budget`; after the last three, trials may be left.

    Raises:
        StoreError: No cluster could be reached or started, the cluster was lost, a worker met data or a folder that it
            cannot use, or a node does not meet the requirements; the worker's trial stays in flight.
    """
    left = list(trials)
    with session(trials, options, generation, on_lost, prepare) as running:
        left = running.grid(trials, progress)
    return running.ended(finished=not left)


@contextmanager
def session(
    trials: Sequence[Trial],
    options: Options,
    generation: int,
    on_lost: Callable[[str], int],
    prepare: Callable[[], object] = lambda: None,
) -> Iterator[Session]:
    """Start Ray or connect to it for some trials; shut it down at the end. Arguments and errors: see `train`."""
    space = _space(options, generation)
    handler = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as aside, signals_wait():
        # The import of Tune takes a second.
        prepared, tuning = (
            aside.submit(prepare),
            aside.submit(import_module, f"{__package__}.tuning"),
        )
        _start(options, len(trials))
    started, stop = time.monotonic(), Stop(on_lost)
    try:
        with stop.watching():
            prepared.result()
            if options.gpus_per_trial is None:
                share = measured_share([trial.config for trial in trials], options)
                options = replace(options, gpus_per_trial=share)
            with _signals() as caught:
                yield tuning.result().Session(options, space, stop, caught, started)
    finally:
        signal.signal(signal.SIGTERM, handler)


def _space(options: Options, generation: int) -> dict[str, Any]:
    """Return what every worker gets beside its key, after a plugin's file is in the output folder."""
    if options.plugin is not None:
        plugins.write_copy(options.plugin, options.root)
    return {
        "generation": generation,
        "provenance": provenance(),
        "commit_every": options.commit_every,
        "diagnostics": options.diagnostics,
        "data_dir": str(options.data_dir.absolute()),
        "fingerprint": fingerprint() if options.address else None,  # one machine has one code
        "root": str(options.root.absolute()),
        "report_every": REPORT_SECONDS,
    }


def _start(options: Options, trials: int) -> None:
    if options.address is not None:
        connect(options.address)
    else:
        cores, processes = len(os.sched_getaffinity(0)), options.workers_per_trial
        local.start(min((options.max_concurrent or cores) * processes, cores, trials * processes))
    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # a lost worker is a line of progress, not a traceback


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Handle SIGTERM as Tune handles SIGINT, also while no Tuner runs; yield the names of the signals received."""
    caught: list[str] = []

    def note(number: int, frame: Any) -> None:
        caught.append("SIGTERM")
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGTERM, note)
    try:
        yield caught
    except KeyboardInterrupt:
        if not caught:
            raise
