"""Fail the n-th file operation: an error or a kill, in a process of its own.

Python tells audit hooks of every open, rename, removal and new directory, whoever asks for them; writes and fsyncs are
seen by wrapping the two functions that the store uses. A write that fails has written half.
"""

from __future__ import annotations

import builtins
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.scandir",
    "os.listdir",
)
ENOSPC, EIO, KILL = "ENOSPC", "EIO", "KILL"
DONE, RAISED, BROKEN = (
    0,
    3,
    4,
)  # exit codes of a child: ended, an OSError came through, another exception did


class Fault:
    """Counts the file operations below a folder and lets one of them fail.

    Args:
        root: The folder.
        at: Which operation, from 1; 0 for none.
        error: `ENOSPC`, `EIO` or `KILL`.
        stays: Whether all later ones fail, too, as on a full disk.
    """

    def __init__(self, root: Path, at: int = 0, error: str = EIO, stays: bool = False):
        self.count = 0
        self._root, self._at, self._error, self._stays = str(root), at, error, stays

    def install(self) -> None:
        """From now on, in this process, for good."""
        sys.addaudithook(self._hear)
        plain_open, plain_fsync, plain_pwrite = builtins.open, os.fsync, os.pwrite

        def opened(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            file = plain_open(path, mode, *rest, **options)
            return _Written(file, self) if set(mode) & set("wa+") and self._below(path) else file

        def synced(descriptor: int) -> None:
            self.tick()
            plain_fsync(descriptor)

        def written(descriptor: int, content: bytes, offset: int) -> int:
            self.tick()
            return plain_pwrite(descriptor, content, offset)

        builtins.open, os.fsync, os.pwrite = opened, synced, written

    def tick(self, half: Callable[[], object] = lambda: None) -> None:
        """An operation is about to be done; `half` does a part of it."""
        self.count += 1
        if self._at and (self.count == self._at or (self._stays and self.count > self._at)):
            half()
            if self._error == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            code = getattr(errno, self._error)
            raise OSError(code, os.strerror(code))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and self._below(arguments[0]):
            self.tick()

    def _below(self, path: object) -> bool:
        """Also what is named relative to an open directory, as rmtree does."""
        if isinstance(path, bytes):
            path = path.decode()
        return isinstance(path, str | Path) and (
            str(path).startswith(self._root) or not os.path.isabs(path)
        )


class _Written:
    """A file whose writes are operations."""

    def __init__(self, file: Any, fault: Fault):
        self._file, self._fault = file, fault

    def write(self, content: Any) -> Any:
        self._fault.tick(
            lambda: (self._file.write(content[: len(content) // 2]), self._file.flush())
        )
        return self._file.write(content)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def in_child(work: Callable[[], object], fault: Fault | None = None) -> int:
    """Run in a forked process: its exit code (`DONE`, `RAISED`, `BROKEN`), or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            if fault is not None:
                fault.install()
            work()
            os._exit(DONE)
        except BaseException as error:
            if isinstance(error, OSError) or isinstance(error.__cause__, OSError):
                os._exit(RAISED)
            traceback.print_exc()
            os._exit(BROKEN)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(work: Callable[[], int]) -> int:
    """A process that does some work and ends with its answer; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(work())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def operations(work: Callable[[], object], root: Path) -> int:
    """How many file operations some work does; done in a child, which tells by a pipe."""
    reading, writing = os.pipe()
    fault = Fault(root)

    def told() -> None:
        work()
        os.write(writing, str(fault.count).encode())

    code = in_child(told, fault)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    if code != DONE:
        raise RuntimeError(f"the work fails by itself: exit code {code}")
    return int(answer)
