"""What ends training before the trials have ended: a problem that a worker reports, or a lost cluster.

Also keeps signals, which end it too, out of Ray's start and shutdown.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray._private import ray_constants, utils
from rich.console import Console

from trainables.ray_trainable import PROBLEM

TICK_SECONDS, PROBE_SECONDS = 1.0, 5.0  # between counts, and between requests for the living nodes
LOST_SECONDS = 40.0  # without a living node before training stops
GRACE_SECONDS = (
    10.0  # after that until the process ends itself: before Ray ends it, 60 s after its head died
)
LOST = "Ray's head or its last node died"


class Stop:
    """Decides to stop all training when no trial is to blame.

    This is the case when a worker meets damaged data or a folder that it cannot use, which the other trials would meet
    too; and when no node has been alive for a while, in which case Tune would wait for ever.

    Args:
        on_lost: Called with the reason before the process ends because of a lost cluster; returns the exit code.
    """

    def __init__(self, on_lost: Callable[[str], int]):
        self.problem = ""
        self._on_lost = on_lost
        self._alone = 0.0  # seconds without a living node, except those in which this process slept

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that is never requested

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Keep the first problem; return True if the result reports a problem, which stops the trial."""
        self.problem = self.problem or result.get(PROBLEM, "")
        return PROBLEM in result

    def stop_all(self) -> bool:
        """Return True if there was a problem; called very often."""
        if self._alone > LOST_SECONDS:
            self.problem = self.problem or LOST
        return bool(self.problem)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for living nodes while Ray is used, then shut it down; end the process if a dead Ray blocks it.

        This takes two threads, because a dead head does not answer.
        """
        over, down, asking = threading.Event(), threading.Event(), threading.Lock()

        def probe() -> None:
            while not over.wait(PROBE_SECONDS):
                with asking, suppress(Exception):
                    if not over.is_set() and any(node["Alive"] for node in ray.nodes()):
                        self._alone = 0.0

        def count() -> None:
            while not down.wait(TICK_SECONDS):
                self._alone += TICK_SECONDS
                if self._alone > LOST_SECONDS + GRACE_SECONDS:
                    self._end()

        for task in (probe, count):
            threading.Thread(target=task, name=task.__name__, daemon=True).start()
        try:
            yield
        finally:
            over.set()
            asking.acquire(
                timeout=GRACE_SECONDS
            )  # a request for nodes during the shutdown would end the process
            try:
                with (
                    signals_wait()
                ):  # interrupted halfway, Ray would end the process with exit code 1
                    ray.shutdown()
            finally:
                down.set()

    def _end(self) -> None:
        """End this process without the report, which the same command writes later.

        Tune and Ray may wait in calls that never return, and 60 s after the loss of its head Ray would end the process
        with exit code 1 and a stack trace. What Ray started here ends with the process.
        """
        Console(stderr=True).show_cursor()  # the progress display has hidden it
        code = self._on_lost(LOST)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM after Ray's start or shutdown, which take some seconds.

    Some of Ray's calls swallow what a handler raises, and a half-connected driver crashes at its exit. Ray would
    install two handlers of SIGTERM: its own, and that of abseil, which aborts a driver that waits for its workers.
    """
    received: list[int] = []

    handlers = {
        n: signal.signal(n, lambda n, frame: received.append(n))
        for n in (signal.SIGINT, signal.SIGTERM)
    }
    before = utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    utils.set_sigterm_handler = lambda handler: None
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    try:
        yield
    finally:
        utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.alarm(
            0
        )  # set by abseil's handler where Ray installs it nevertheless: it aborts 3 s after a SIGTERM
    if received:
        signal.raise_signal(received[0])
