"""Paths of a user's data, which are a part of the workload's name."""

from __future__ import annotations

from pathlib import Path

from precond import HyperparameterError
from trainables.data.base import default_data_dir

Stamp = tuple[Path, int, int]
"""A file, its time of modification in nanoseconds and its size in bytes."""


def user_path(path: str) -> Path:
    """Return an absolute path.

    A relative path is relative to the data folder, so that it is valid on every worker.
    """
    return default_data_dir().absolute() / Path(path).expanduser()


def user_file(name: str, path: str) -> Stamp:
    """Return a user's file with its time and its size, as a key for a cache of its content.

    Args:
        name: The name of the dataset, for messages.
        path: The path in this name.

    Raises:
        HyperparameterError: The path cannot be read, or it is not that of a regular file.
    """
    try:
        file = user_path(path)
        status = file.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise unreadable_path(name, path, error) from error
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "not a regular file"
        raise HyperparameterError(f"{name}: {file} is {kind}: give the path of a file")
    return file, status.st_mtime_ns, status.st_size


def unreadable_path(name: str, path: str, error: Exception) -> HyperparameterError:
    """Return the error for a path that cannot be read."""
    hint = (
        ""
        if Path(path).expanduser().is_absolute()
        else "; a relative path is relative to --data-dir"
    )
    reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    return HyperparameterError(f"{name}: {reason}{hint}")
