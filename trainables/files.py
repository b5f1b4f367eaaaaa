"""Read and write files so that a reader sees only complete files and records, even after a crash."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class StoreError(RuntimeError):
    """A folder cannot be used; the message is one line with the reason and the remedy.

    Args:
        problem: The message, or its first part if there is an `advice`.
        advice: What the user of a command that trains can do. Other commands may replace it.
    """

    def __init__(self, problem: str, advice: str = ""):
        super().__init__(f"{problem}: {advice}" if advice else problem)
        self.problem = problem
        self.advice = advice


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file, or an empty list if the file does not exist.

    An incomplete last line (without a newline) is ignored.

    Raises:
        StoreError: A complete line is damaged. A crash of a worker cannot cause this.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [parse(line, path) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def parse(content: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object in the content of a file; `path` is used in the error message.

    Raises:
        StoreError: The content is not a JSON object.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        advice = "move its folder away; the same command then trains the trial again"
        raise StoreError(f"{path} is damaged: {advice}")
    return document


def repair_tail(path: Path) -> None:
    """Remove an incomplete last line, so that the next record starts on a new line."""
    content = path.read_bytes() if path.exists() else b""
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with open(path, "rb+") as file:
            file.truncate(complete)
            sync(file)


def append_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Append records to a JSON-lines file in one write, and flush them to the disk."""
    if not records:
        return
    created = not path.exists()
    with _named(path), open(path, "ab") as file:
        file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        sync(file)
    if created:
        sync_directory(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content; a reader sees the old or the new content, even after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    with _named(temporary), open(temporary, "wb") as file:
        file.write(content)
        sync(file)
    temporary.replace(path)
    sync_directory(path.parent)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Set the name of the file in an `OSError` of the context, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def checksum(path: Path, method: str = "sha256") -> str:
    """Return the digest of a file's content in hexadecimal; `method` is a name in `hashlib`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, method).hexdigest()


def remove(path: Path) -> None:
    """Delete a file, a folder with its content, or a symbolic link (but not its target)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder in `parent`, which is removed at the end.

    Folders with the same prefix whose processes were killed are removed first. A running process
    holds a lock of its folder. Where the file system has no such locks, no other folder is removed.

    Raises:
        OSError: The parent cannot be written.
    """
    for leftover in parent.glob(f"{prefix}*"):
        with suppress(OSError), _opened(leftover) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(leftover)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        with _opened(folder) as descriptor:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield folder
    finally:
        remove(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync(file: Any) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Flush a directory, so that a power failure does not undo changes of its entries."""
    with _opened(path) as descriptor:
        os.fsync(descriptor)
