"""What ends a study's training before its trials have ended: a worker's problem, or a cluster that is no more.

And what keeps signals, which end it too, out of Ray's start.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import tune
from ray._private import utils
from rich.console import Console

from studies.harness.command.run import ENVIRONMENT, stopped
from trainables.ray_trainable import PROBLEM

TICK_SECONDS, PROBE_SECONDS = 1.0, 5.0  # how often to count, and to look for living nodes
LOST_SECONDS = 40.0  # how long to go without one
GRACE_SECONDS = 10.0  # then, until the process ends itself: before Ray does, 60 s after its head
LOST = "Ray's head or its last node died"


class Stop(tune.Stopper):
    """Ends everything once going on makes no sense, and no trial is to blame.

    That is when a worker has met damaged data or a folder that it cannot use, which the other trials would meet, too;
    and when no node has been alive for a while, for which Tune by itself waits for ever.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._alone = 0.0  # seconds without a living node; those in which this process slept are not counted

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Keep the first problem; that trial ends."""
        self.problem = self.problem or result.get(PROBLEM, "")
        return PROBLEM in result

    def stop_all(self) -> bool:
        """Whether there was a problem; asked all the time."""
        if self._alone > LOST_SECONDS:
            self.problem = self.problem or LOST
        return bool(self.problem)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look for living nodes while Ray is used, then shut it down; end the process where a dead one holds it up.

        Two threads, since a dead head does not answer.
        """
        over, down, asking = threading.Event(), threading.Event(), threading.Lock()

        def look() -> None:
            while not over.wait(PROBE_SECONDS):
                with asking, suppress(Exception):
                    if not over.is_set() and any(node["Alive"] for node in ray.nodes()):
                        self._alone = 0.0

        def count() -> None:
            while not down.wait(TICK_SECONDS):
                self._alone += TICK_SECONDS
                if self._alone > LOST_SECONDS + GRACE_SECONDS:
                    _end()

        for task in (look, count):
            threading.Thread(target=task, name=task.__name__, daemon=True).start()
        try:
            yield
        finally:
            over.set()
            asking.acquire(timeout=GRACE_SECONDS)  # asked for nodes while it shuts down, Ray would end the process
            ray.shutdown()
            down.set()


def _end() -> None:
    """End this process as a lost cluster does, without the report: the same command makes it.

    Tune and Ray may wait in calls that never return, and after 60 s without its head Ray would end the process with
    exit code 1 and a stack trace. What Ray has started here ends with the process.
    """
    Console(stderr=True).show_cursor()  # which the progress display has hidden
    code = stopped(ENVIRONMENT, f"error: {LOST}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def signals_wait() -> Iterator[None]:
    """What Ray's start is put into: SIGINT and SIGTERM come when it is over, some seconds later.

    Ray puts an own handler of SIGTERM in place; what a handler raises gets lost inside some of its calls, and a driver
    that was half connected crashes as it exits.
    """
    came: list[int] = []

    def later(number: int, frame: object) -> None:
        came.append(number)

    handlers = {number: signal.signal(number, later) for number in (signal.SIGINT, signal.SIGTERM)}
    rays, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = rays
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.alarm(0)  # of abseil, whose handler Ray's core has had in place of ours: it aborts 3 s after a SIGTERM
    if came:
        signal.raise_signal(came[0])
