"""Stop training early: because of a problem that a worker reports, a lost cluster, or a signal.

`defer_signals` keeps signals out of Ray's start and shutdown.
"""

from __future__ import annotations

import gc
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

from studies.harness.design.signals import handlers
from trainables.ray_trainable import PROBLEM

TICK_SECONDS = 1.0  # between two updates of the time without a live node
PROBE_SECONDS = 5.0  # between two requests for the live nodes
LOST_SECONDS = 40.0  # training stops after this time without a live node
# If training has not stopped after this additional time, the process ends itself. Ray would end it
# 60 s after the loss of the head node.
GRACE_SECONDS = 10.0
LOST = f"the Ray cluster was lost: no node was alive for {LOST_SECONDS:g} s"


class Stop:
    """Decides to stop all training, for a reason that affects every trial.

    One reason is a problem that a worker reports, such as damaged data or a folder that it cannot
    use. The other is that no node has been alive for a while; Tune would wait for ever.

    Args:
        on_lost: Called with the reason before a lost cluster ends the process; returns the exit
            code.
    """

    def __init__(self, on_lost: Callable[[str], int]):
        self.problem = ""
        self._on_lost = on_lost
        # Time without a live node. It does not grow while this process is suspended.
        self._lost_seconds = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles this object for a restore, which is never requested

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Store the first problem; return True, to stop the trial, if the result has a problem."""
        self.problem = self.problem or result.get(PROBLEM, "")
        return PROBLEM in result

    def stop_all(self) -> bool:
        """Return True if there was a problem; Tune calls this very often."""
        if self._lost_seconds > LOST_SECONDS:
            self.problem = self.problem or LOST
        return bool(self.problem)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the nodes while Ray is used, then shut Ray down; end the process if Ray blocks.

        One thread requests the nodes and another counts the time, because a lost head node may
        block the request.
        """
        over, down, request = threading.Event(), threading.Event(), threading.Lock()

        def probe() -> None:
            while not over.wait(PROBE_SECONDS):
                with request, suppress(Exception):
                    if not over.is_set() and any(node["Alive"] for node in ray.nodes()):
                        self._lost_seconds = 0.0

        def count() -> None:
            while not down.wait(TICK_SECONDS):
                self._lost_seconds += TICK_SECONDS
                if self._lost_seconds > LOST_SECONDS + GRACE_SECONDS:
                    self._end()

        for task in (probe, count):
            threading.Thread(target=task, name=task.__name__, daemon=True).start()
        try:
            yield
        finally:
            over.set()
            # A request for nodes during the shutdown would end the process.
            request.acquire(timeout=GRACE_SECONDS)
            try:
                # An interrupted shutdown would end the process with code 1.
                with defer_signals(), _no_garbage_collection():
                    ray.shutdown()
            finally:
                down.set()

    def _end(self) -> None:
        """End this process without a report; the user writes it by running the same command again.

        Tune and Ray may wait in calls that never return. Ray would end the process 60 s after the
        loss of the head node, with exit code 1 and a stack trace. Ray's processes on this machine
        end, too.
        """
        Console(stderr=True).show_cursor()  # the progress display has hidden the cursor
        code = self._on_lost(LOST)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and not again before the end of the context.

    Another thread, such as the tracking, may run the collector at any time. If it deletes an
    `ObjectRef` during Ray's shutdown, Ray ends the process with code 1.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def defer_signals() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM after Ray's start or shutdown, which take some seconds.

    Some of Ray's calls swallow the exception that a handler raises, and a driver crashes at its
    exit if its connection is incomplete. Ray would also install two handlers of SIGTERM, which this
    function prevents: its own, and the one of abseil, which aborts a driver that waits for its
    workers.
    """
    received: list[int] = []

    def defer(number: int, frame: object) -> None:
        received.append(number)

    before = utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    utils.set_sigterm_handler = lambda handler: None
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    try:
        with handlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM), defer)):
            yield
    finally:
        utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = before
        # Cancel the alarm of abseil's handler, which aborts the process 3 s after a SIGTERM. In
        # some cases Ray installs that handler nevertheless.
        signal.alarm(0)
    if received:
        redeliver(received[0])


def redeliver(number: int) -> None:
    """Call the handler of a signal that the process has received already.

    The signal is not written to `signal.set_wakeup_fd`, so that it is not acknowledged twice.
    """
    descriptor = signal.set_wakeup_fd(-1)
    try:
        signal.raise_signal(number)
    finally:
        signal.set_wakeup_fd(descriptor)
