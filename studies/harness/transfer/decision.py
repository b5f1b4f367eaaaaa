"""The decision about a result that several output folders may contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Decision:
    """The content that a result has in the merged folder.

    Attributes:
        source: The file or folder that is copied; the one in the merged folder if it is kept.
        content: The content of the merged file if it is no copy of `source`.
        reason: The reason for the choice, if there were different candidates.
    """

    source: Path
    content: bytes | None = None
    reason: str = ""


class Conflict(Exception):
    """Two output folders contain different results, and neither replaces the other.

    Args:
        difference: The two files or folders and their difference, as a clause.
        key: The name of the result.
        config: The configuration of the trial; None for other results.
    """

    def __init__(self, difference: str, key: str, config: Mapping[str, Any] | None = None):
        super().__init__(difference)
        self.difference, self.key, self.config = difference, key, config
