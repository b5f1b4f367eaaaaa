"""The README's text and its indented blocks of code."""

from __future__ import annotations

import textwrap
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def snippet(first_line: str) -> str:
    """Return the indented block that begins with a line."""
    _, found, rest = README.partition(f"\n    {first_line}\n")
    assert found, f"the README has no block that begins with {first_line}"
    lines = []
    for line in rest.splitlines():
        if line and not line.startswith("    "):
            break
        lines.append(line)
    return textwrap.dedent("\n".join([f"    {first_line}", *lines]))
