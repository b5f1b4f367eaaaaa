"""What a node runs: the digest of this project's sources, and the versions below them. Equal on all nodes of a run."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

PACKAGES = ("precond", "trainables", "studies")
SOURCES = ("*.py", "*.yaml")


@cache
def fingerprint() -> dict[str, str]:
    """`code` (16 hexadecimal digits), `torch` and `python` of this process."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted(path for pattern in SOURCES for path in (root / package).rglob(pattern)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return {"code": digest.hexdigest()[:16], "torch": torch.__version__, "python": platform.python_version()}


def difference(wanted: Mapping[str, str]) -> str:
    """How this process differs from a fingerprint, in a few words; empty when it does not."""
    here = fingerprint()
    return ", ".join(f"{name} {here[name]} instead of {wanted[name]}" for name in here if here[name] != wanted[name])
