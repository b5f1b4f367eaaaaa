"""What code is run, and where: noted by every worker, shown when a table mixes it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """What workers note about the code they run."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    facts: dict[str, Any] = {"host": platform.node(), "python": platform.python_version()}
    try:
        return {**facts, "git_sha": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):  # not a checkout
        return facts
