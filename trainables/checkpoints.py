"""A trial's checkpoints: folders `checkpoint-<epoch>/` with `state.pt` and `manifest.json`.

The manifest contains the SHA-256 of `state.pt`, because `torch.load` does not compare checksums
and would not detect flipped bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from trainables.config import digest
from trainables.files import checksum, remove, sync, sync_directory, write_atomically

Lines = list[dict[str, Any]]


class Damaged(Exception):
    """A checkpoint that does not match its manifest, or that cannot be decoded."""


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a trial folder, the oldest first."""
    complete = [path for path in folder.glob("checkpoint-*") if path.suffix != ".tmp"]
    return sorted(complete, key=epoch_of)


def epoch_of(checkpoint: Path) -> int:
    """Return the number of the last epoch that was trained before the checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def write(folder: Path, key: str, lines: Lines, layers: Lines, state: Mapping[str, Any]) -> None:
    """Write a checkpoint of the last epoch in `lines` to a temporary folder, then rename it.

    The checkpoint contains the lines: if the worker is killed before it appends them to the trial's
    files, the next worker appends them.

    Args:
        folder: The trial folder.
        key: The trial's key.
        lines: The records of the epochs since the last checkpoint.
        layers: The rows of diagnostics of these epochs.
        state: The state of the training.
    """
    final = folder / f"checkpoint-{lines[-1]['epoch']}"
    temporary = final.with_suffix(".tmp")
    temporary.mkdir()
    with open(temporary / "state.pt", "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch raises this error after a failed write; its context is the original OSError.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        sync(file)
    manifest = {
        "epoch": epoch_of(final),
        "key": key,
        "sha256": checksum(temporary / "state.pt"),
        "lines": json.dumps(lines),  # text, because `digest` refuses NaN and a metric may be NaN
        "layers": json.dumps(layers),
    }
    signed = {**manifest, "digest": digest(manifest)}
    write_atomically(temporary / "manifest.json", json.dumps(signed).encode())
    if final.exists():  # an earlier worker wrote it, and a power failure removed the epoch's line
        remove(final)
    temporary.rename(final)
    sync_directory(folder)


def verify(path: Path, key: str) -> dict[str, Any]:
    """Return the manifest of a checkpoint, after a comparison of all hashes.

    Raises:
        Damaged: The checkpoint does not match its manifest, or belongs to another trial.
        OSError: The files could not be read.
    """
    with _damage():
        manifest = json.loads((path / "manifest.json").read_bytes())
        claimed = manifest.pop("digest")
        if claimed != digest(manifest) or manifest["key"] != key:
            raise Damaged("manifest mismatch")
        if checksum(path / "state.pt") != manifest["sha256"]:
            raise Damaged("sha256 mismatch")
        return manifest


def read(path: Path, key: str) -> tuple[Lines, Lines, dict[str, Any]]:
    """Return a checkpoint's records of epochs, rows of diagnostics and state.

    Raises:
        Damaged: The checkpoint does not match its manifest, or belongs to another trial.
        OSError: The files could not be read.
    """
    manifest = verify(path, key)
    with _damage():
        lines, layers = (json.loads(manifest[name]) for name in ("lines", "layers"))
        return lines, layers, torch.load(path / "state.pt", weights_only=True, map_location="cpu")


@contextmanager
def _damage() -> Iterator[None]:
    """Raise `Damaged` for each error that the content of a checkpoint can cause."""
    try:
        yield
    except (
        FileNotFoundError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        UnpicklingError,
    ) as error:
        raise Damaged(f"{type(error).__name__}: {error}".partition("\n")[0]) from error
