"""Standard output and standard error that never raise, so that a lost reader stops no training.

If the reader of a pipe ends, as in `command | head -1`, the rest of the output is discarded and the
command continues to its own end and exit code. If the output cannot be written for another reason,
such as a full disk, the rest is discarded, too, and `problem` returns the reason.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

NAMES = {"stdout": "standard output", "stderr": "standard error"}


def protect() -> None:
    """Replace `sys.stdout` and `sys.stderr`; a stream without a file descriptor is kept."""
    for name in NAMES:
        stream: Any = getattr(sys, name)
        try:
            stream.flush()
            raw = _Output(stream.fileno())
        except (AttributeError, OSError, ValueError):  # None, closed, or not a file
            continue
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering or stream.write_through,
            ),
        )


def problem() -> str:
    """Flush the protected streams, and return a line if a stream could not be written, else ""."""
    for name, title in NAMES.items():
        raw = getattr(getattr(getattr(sys, name), "buffer", None), "raw", None)
        if isinstance(raw, _Output):
            getattr(sys, name).flush()
            if raw.problem:
                return f"cannot write to {title} ({raw.problem}); the rest of it was discarded"
    return ""


class _Output(io.FileIO):
    """A file descriptor that is replaced by the null device when it cannot be written.

    Attributes:
        problem: The reason; empty if the reader of a pipe has ended, which is no error.
    """

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)
        self.problem = ""

    def write(self, data: Any, /) -> int | None:
        """Write the bytes, or discard them; never raise an `OSError`."""
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.problem = error.strerror or str(error)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes
