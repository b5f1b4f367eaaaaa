"""The copies of plugins, named by the SHA-256 of their bytes, and the files that name a copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studies.harness.transfer.decision import Decision
from trainables.files import StoreError, parse
from trainables.plugins import PluginError, sources


def decide(paths: Sequence[Path]) -> Decision:
    """Return the first file or folder; copies that a hash may name give the same results.

    Raises:
        StoreError: A copy is damaged.
    """
    for path in paths:
        if path.suffix == ".json":
            parse(path.read_bytes(), path)
        elif not _intact(path):
            raise StoreError(
                f"{path} is damaged: move it away; the study's command writes it again"
            )
    return Decision(paths[0])


def _intact(path: Path) -> bool:
    try:
        return sources.read(path).sha256 == path.name.removesuffix(".py")
    except PluginError:
        return False
