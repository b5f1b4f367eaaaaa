"""Files that survive a crash at any moment: written whole or not at all, appended a line at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


class StoreError(RuntimeError):
    """A folder that cannot be used; the message is one line and says what to do."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a torn last line (no newline yet) is not a record.

    Raises:
        StoreError: A line is damaged, which no crash of ours does.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [parse(line, path) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def parse(content: bytes, path: Path) -> dict[str, Any]:
    """A JSON object that was read from a file.

    Raises:
        StoreError: It is none.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise StoreError(f"{path} is damaged: move its folder away, and the trial is trained again")
    return document


def repair_tail(path: Path) -> None:
    """Cut a torn last line, so that the next record does not grow onto it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with open(path, "rb+") as file:
            file.truncate(whole)
            sync(file)


def append_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Append records to a JSON-lines file in one write, durably."""
    if not records:
        return
    created = not path.exists()
    with open(path, "ab") as file:
        file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        sync(file)
    if created:
        sync_directory(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content: readers and crashes see the old one or the new one, never a part."""
    aside = path.with_name(path.name + ".tmp")
    with open(aside, "wb") as file:
        file.write(content)
        sync(file)
    aside.replace(path)
    sync_directory(path.parent)


def checksum(path: Path, method: str = "sha256") -> str:
    """Return the digest of a file's content in hexadecimal, by a method of `hashlib`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, method).hexdigest()


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link, not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync(file: Any) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Flush a directory: what was created, renamed or removed in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
