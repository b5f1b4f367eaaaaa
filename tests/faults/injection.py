"""Make the n-th file operation of a forked process raise an OSError or kill the process.

Python calls audit hooks for every open, rename, removal and new directory, also inside libraries.
Writes and fsyncs have no audit events, so the functions that the store uses are wrapped. A failing
write writes half of its content.
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
# Exit codes of a child that completed, that raised an OSError, or that raised another exception.
DONE, RAISED, BROKEN = 0, 3, 4


class Fault:
    """Count the file operations below a folder, and make one of them fail.

    Args:
        root: The folder.
        at: Number of the failing operation, counted from 1; 0 for none.
        error: `ENOSPC`, `EIO` or `KILL`.
        stays: If True, all later operations also fail, as on a full disk.
    """

    def __init__(self, root: Path, at: int = 0, error: str = EIO, stays: bool = False):
        self.count = 0
        self._root, self._at, self._error, self._stays = str(root), at, error, stays

    def install(self) -> None:
        """Count the operations of this process from now on; this cannot be undone."""
        sys.addaudithook(self._audit)
        plain_open, plain_fsync, plain_pwrite = builtins.open, os.fsync, os.pwrite

        def counted_open(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            file = plain_open(path, mode, *rest, **options)
            writable = set(mode) & set("wa+") and self._below(path)
            return _CountedFile(file, self) if writable else file

        def counted_fsync(descriptor: int) -> None:
            self.count_operation()
            plain_fsync(descriptor)

        def counted_pwrite(descriptor: int, content: bytes, offset: int) -> int:
            self.count_operation()
            return plain_pwrite(descriptor, content, offset)

        builtins.open, os.fsync, os.pwrite = counted_open, counted_fsync, counted_pwrite

    def count_operation(self, write_half: Callable[[], object] = lambda: None) -> None:
        """Count an operation before it is performed; if it is to fail, call `write_half` first."""
        self.count += 1
        if self._at and (self.count == self._at or (self._stays and self.count > self._at)):
            write_half()
            if self._error == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            code = getattr(errno, self._error)
            raise OSError(code, os.strerror(code))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and self._below(arguments[0]):
            self.count_operation()

    def _below(self, path: object) -> bool:
        """Return True for a path below the folder, and for relative paths, which rmtree uses."""
        if isinstance(path, bytes):
            path = path.decode()
        if not isinstance(path, str | Path):
            return False
        return str(path).startswith(self._root) or not os.path.isabs(path)


class _CountedFile:
    """A file whose writes are counted as operations."""

    def __init__(self, file: Any, fault: Fault):
        self._file, self._fault = file, fault

    def write(self, content: Any) -> Any:
        def write_half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        self._fault.count_operation(write_half)
        return self._file.write(content)

    def __enter__(self) -> _CountedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def in_child(work: Callable[[], object], fault: Fault | None = None) -> int:
    """Run a function in a forked process, after installing the fault.

    Returns:
        The exit code (`DONE`, `RAISED` or `BROKEN`), or minus the number of the signal that killed
        the process.
    """
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
    """Start a forked process whose exit code is the result of `work`; return its process id."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(work())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def operations(work: Callable[[], object], root: Path) -> int:
    """Return the number of file operations of `work` below a folder.

    The work runs in a forked process, which sends the number through a pipe.
    """
    reading, writing = os.pipe()
    fault = Fault(root)

    def count() -> None:
        work()
        os.write(writing, str(fault.count).encode())

    code = in_child(count, fault)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    if code != DONE:
        raise RuntimeError(f"the work fails without a fault: exit code {code}")
    return int(content)
