"""The code that a process runs: a digest of the sources, which all nodes must share, and notes for the trial folder."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("precond", "trainables", "studies")
SOURCES = ("*.py", "*.yaml", "templates/*")


@cache
def fingerprint() -> dict[str, str]:
    """Return `code` (16 hexadecimal digits), `torch` and `python` of this process."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted(path for pattern in SOURCES for path in (root / package).rglob(pattern)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return {
        "code": digest.hexdigest()[:16],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def difference(wanted: Mapping[str, str]) -> str:
    """Return how this process differs from a fingerprint, in a few words; empty if it does not."""
    here = fingerprint()
    return ", ".join(
        f"{name} {here[name]} instead of {wanted[name]}"
        for name in here
        if here[name] != wanted[name]
    )


def provenance() -> dict[str, Any]:
    """Return `host`, `python` and, in a checkout, `git_sha` and `git_dirty`."""

    def git(*arguments: str) -> str:
        command, here = ["git", *arguments], Path(__file__).parent
        return subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    facts: dict[str, Any] = {"host": platform.node(), "python": platform.python_version()}
    try:
        return {
            **facts,
            "git_sha": git("rev-parse", "HEAD"),
            "git_dirty": bool(git("status", "--porcelain")),
        }
    except (OSError, subprocess.CalledProcessError):  # not a checkout
        return facts
