"""The text of the README and its indented code blocks."""

from __future__ import annotations

import textwrap
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def snippet(first_line: str) -> str:
    """Return the code block whose first line is `first_line`."""
    _, separator, rest = README.partition(f"\n    {first_line}\n")
    assert separator, f"the README has no code block that begins with {first_line}"
    lines = []
    for line in rest.splitlines():
        if line and not line.startswith("    "):
            break
        lines.append(line)
    return textwrap.dedent("\n".join([f"    {first_line}", *lines]))
