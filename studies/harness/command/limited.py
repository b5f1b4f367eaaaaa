"""Run a measurement in a child process with limits of time and memory."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MEMORY_SHARE = 0.5  # of the available memory
NO_MEMORY = ("can't allocate memory", "not enough memory")  # in torch's errors
GROUP = Path("/sys/fs/cgroup")  # of a container


class OverLimitError(Exception):
    """A measurement needs more time or memory than it may use."""


class MeasurementError(Exception):
    """A measurement raised an error; the message is the `repr` of the error."""


def limited(work: Callable[[], Any], seconds: float) -> Any:
    """Return `work()`, which must be a value of JSON, computed in a forked process.

    Raises:
        OverLimitError: The process exceeded the seconds, or half of the available memory.
        MeasurementError: The function raised an error.
    """
    reader, writer = os.pipe()
    with _forked(work, reader, writer) as child:
        os.close(writer)
        answer = _read(reader, time.monotonic() + seconds)
        os.close(reader)
        if not answer:
            os.kill(child, signal.SIGKILL)
    if not answer:
        raise OverLimitError
    document = json.loads(answer)
    if "error" in document:
        raise MeasurementError(document["error"])
    if document["result"] is None:
        raise OverLimitError
    return document["result"]


@contextmanager
def _forked(work: Callable[[], Any], reader: int, writer: int) -> Iterator[int]:
    """Run the function in a child process, and yield its number; wait for its end."""
    with warnings.catch_warnings():
        # Python warns of a fork beside other threads. The child uses one thread of torch only.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(work, writer)
    try:
        yield child
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.waitpid(child, 0)


def _answer(work: Callable[[], Any], writer: int) -> None:
    """Write the result of the function, or its error, to the pipe, and end this process."""
    try:
        _limit_memory()
        document = {"result": work()}
    except MemoryError:
        document = {"result": None}
    except Exception as error:
        memory = any(text in str(error) for text in NO_MEMORY)
        document = {"result": None} if memory else {"error": repr(error)}
    except BaseException:  # Ctrl-C, which the parent receives, too
        os._exit(1)
    os.write(writer, json.dumps(document).encode())
    os._exit(0)  # without the exit handlers and the buffered output of the parent


def _read(reader: int, deadline: float) -> bytes:
    """Return what the child writes before it ends; empty if it writes nothing in time."""
    content = b""
    while True:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            return b""
        part = os.read(reader, 65536)
        if not part:
            return content
        content += part


def _limit_memory() -> None:
    """Limit this process to a share of the available memory; without effect outside Linux."""
    with suppress(OSError, ValueError, KeyError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # the kernel ends this process first
        free = _table(Path("/proc/meminfo"))["MemAvailable"]
        with suppress(OSError, ValueError):
            used = int((GROUP / "memory.current").read_text())
            free = min(free, int((GROUP / "memory.max").read_text()) - used)  # or "max"
        limit = _table(Path("/proc/self/status"))["VmData"] + int(free * MEMORY_SHARE)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def _table(path: Path) -> dict[str, int]:
    """Return the sizes in a file of /proc in bytes, by name."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[2:] == ["kB"]}
