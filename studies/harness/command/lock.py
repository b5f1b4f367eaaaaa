"""One driver per output folder: a lock that dies with its holder, and a generation that fences its workers.

The generation grows with every driver. Workers get it and compare it before each write, so that a worker which outlived
its driver cannot write into a folder that a new driver has taken over.
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
def exclusive(root: Path) -> Iterator[int]:
    """Hold the output folder; yields this driver's generation.

    Raises:
        StoreError: Another driver holds it; the message says which.
        OSError: The folder cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{root} is in use by {_holder(path)}: wait for it, or take another --out"
            ) from error
        generation = (lock_generation(root) or 0) + 1
        holder = {
            "generation": generation,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.time(),
        }
        # In place: renaming a new file over it would leave the lock on the old one. At one length and in one write: a
        # driver killed in between would leave no generation, and the next one would count from 1 again.
        os.pwrite(descriptor, json.dumps(holder).encode().ljust(LENGTH), 0)
        os.fsync(descriptor)
        yield generation
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        since = time.strftime("%H:%M", time.localtime(holder["since"]))
        return f"pid {holder['pid']} on {holder['host']} since {since}"
    except ValueError:
        return "another process"
