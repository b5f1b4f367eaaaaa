"""Check the folder of a probe's result, and decide which of several folders is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.harness.transfer.decision import Conflict, Decision
from trainables.files import StoreError, checksum, parse
from trainables.store import COMPLETED


def decide(paths: Sequence[Path]) -> Decision:
    """Return the first folder of a probe's result.

    Raises:
        StoreError: A folder is damaged.
        Conflict: Two folders contain different arrays or statuses.
    """
    results = [_read(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        if result != results[0]:
            difference = f"{paths[0]} and {path} contain different results of a probe"
            raise Conflict(difference, path.name)
    return Decision(paths[0])


def _read(path: Path) -> tuple[Any, ...]:
    """Return the key, the status and the checksum of the arrays."""
    try:
        config, status = (
            parse((path / name).read_bytes(), path / name)
            for name in ("config.json", "status.json")
        )
        key, state, arrays = config["key"], status["status"], path / "arrays.npz"
        damaged = state == COMPLETED and checksum(arrays) != status["sha256"]
        damaged = damaged or not key.startswith(path.name)
    except (OSError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} is damaged ({type(error).__name__}): remove it") from error
    if damaged:
        raise StoreError(f"{path} is damaged (the checksum or the key differs): remove it")
    return key, state, status.get("sha256") if state == COMPLETED else None
