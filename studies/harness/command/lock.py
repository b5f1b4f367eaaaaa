"""One driver per output folder: a file lock, and a generation number against outdated workers.

The operating system releases the lock when the driver's process ends. Each driver increments the
generation. Workers receive the generation of their driver and compare it before each write, so that
a worker which outlives its driver cannot write into a folder that belongs to a new driver.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.store import StoreError, lock_generation

LENGTH = 512  # bytes of the lock file


@contextmanager
def exclusive(root: Path, after: int = 0) -> Iterator[int]:
    """Lock the output folder, and yield the generation of this driver.

    Args:
        root: The output folder.
        after: A number below the generation. A merge passes the highest generation of the folders
            that it copies from, because the attempts of their trials contain these generations.

    Raises:
        StoreError: Another driver has locked the folder. The message names its process.
        OSError: The folder cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            advice = "wait until it ends, or choose another folder with --out"
            raise StoreError(f"{root} is in use by {_holder(path)}: {advice}") from error
        generation = max(lock_generation(root) or 0, after) + 1
        holder = {
            "generation": generation,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.time(),
        }
        # Write in place, because the lock would stay with the old file if a new file replaced it.
        # Write all bytes at once and always the same number: if a driver were killed between two
        # writes, the file would contain no generation, and the next driver would start from 1.
        os.pwrite(descriptor, json.dumps(holder).encode().ljust(LENGTH), 0)
        os.fsync(descriptor)
        yield generation
    finally:
        os.close(descriptor)


@contextmanager
def unused(root: Path) -> Iterator[None]:
    """Keep drivers from starting in an output folder, which is only read and may be read-only.

    Raises:
        StoreError: A driver has locked the folder. The message names its process.
    """
    path = root / ".lock"
    if not path.exists():  # no driver has used the folder, or it was copied without the lock
        yield
        return
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"{root} is in use by {_holder(path)}: wait until it ends") from error
        yield


def holder(root: Path) -> str | None:
    """Return a description of the driver that has locked the output folder, or None without one.

    A driver on another host cannot be checked, so it is described until the next driver starts.
    """
    path = root / ".lock"
    try:
        recorded = json.loads(path.read_bytes())
        if recorded["host"] != socket.gethostname():
            return f"{_holder(path)}, which may have ended"
        os.kill(recorded["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, ValueError, KeyError):
        return None
    except PermissionError:  # the process exists and belongs to another user
        return _holder(path)
    # Another process may have the same number now. The lock is tested only then, because the test
    # locks the file for a moment, and a driver that starts in this moment would be refused.
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(path)
    return None


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        since = time.strftime("%H:%M", time.localtime(holder["since"]))
        return f"pid {holder['pid']} on {holder['host']} since {since}"
    except ValueError:
        return "another process"
