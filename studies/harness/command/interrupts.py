"""Acknowledge SIGINT and SIGTERM while trials run, although Ray and Tune need seconds to stop.

Python runs a signal's handler in the main thread, which may be inside Ray, and Tune's own handler
prints nothing. A second thread therefore reads the number of each signal from the file descriptor
of `signal.set_wakeup_fd`, to which Python writes as soon as the signal arrives.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from types import TracebackType

STOPPING = (
    "{name} received: stopping the workers, then writing the report; committed epochs are kept.\n"
    "A second Ctrl-C does not wait for the workers and writes no report."
)
ENDING = (
    "{name} received again: ending without a report. The same command with "
    "--report-only (in Python, report_only=True) writes it later."
)


class Interrupts:
    """A context that prints a line for the first and the second SIGINT or SIGTERM.

    Outside the main thread, which receives all signals, the context does nothing.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._sockets: list[socket.socket] = []
        self._before = -1

    @property
    def repeated(self) -> bool:
        """True if a second signal has arrived, so that the command must end without a report."""
        return len(self._received) > 1

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._sockets = [*socket.socketpair()]
            self._sockets[1].setblocking(False)
            descriptor = self._sockets[1].fileno()
            self._before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._read, name="signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if self._sockets:
            signal.set_wakeup_fd(self._before)
            reader, writer = self._sockets
            writer.close()  # the thread reads the rest and ends
            self._thread.join(1)
            reader.close()
            self._sockets = []

    def _read(self) -> None:
        while numbers := self._sockets[0].recv(64):
            for number in numbers:
                if number in (signal.SIGINT, signal.SIGTERM):
                    self._received.append(number)
                    self._acknowledge(signal.Signals(number).name)

    def _acknowledge(self, name: str) -> None:
        if len(self._received) <= 2:
            text = ENDING if self.repeated else STOPPING
            print(text.format(name=name), file=sys.stderr, flush=True)
