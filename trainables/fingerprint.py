"""The version of the code that a process runs, for comparing nodes and for trial folders."""

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
    """Return the versions of this process's code.

    `code` is a digest of the sources (16 hexadecimal digits); `torch` and `python` are versions.
    """
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


def difference(expected: Mapping[str, str]) -> str:
    """Return the differences between this process and a fingerprint, or "" if there are none."""
    actual = fingerprint()
    return ", ".join(
        f"{name} {actual[name]} instead of {expected[name]}"
        for name in actual
        if actual[name] != expected[name]
    )


def provenance() -> dict[str, Any]:
    """Return `host`, `python` and, in a Git checkout, `git_sha` and `git_dirty`."""

    def git(*arguments: str) -> str:
        command, folder = ["git", *arguments], Path(__file__).parent
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return process.stdout.strip()

    facts: dict[str, Any] = {"host": platform.node(), "python": platform.python_version()}
    try:
        return {
            **facts,
            "git_sha": git("rev-parse", "HEAD"),
            "git_dirty": bool(git("status", "--porcelain")),
        }
    except (OSError, subprocess.CalledProcessError):  # not a checkout
        return facts
