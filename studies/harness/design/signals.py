"""Signal handlers for a part of the program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handlers(by_number: Mapping[int, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    """Install handlers by signal number until the end of the context.

    Only the main thread receives signals and can install handlers. In another thread, such as that
    of a Python program that calls `studies.run` there, the context does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in by_number.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
