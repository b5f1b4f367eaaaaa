"""What a command prints: errors, tables, a sentence for each finding, where the files are, what to type next."""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from studies.harness.design.ending import ENVIRONMENT, INVALID_COMMAND
from studies.harness.design.options import default_root, default_uri
from studies.harness.design.result import Listing, Report

WIDTH = 80
SENTENCES = 10  # a report may have one for each of a hundred levels


def terminal(*, stderr: bool = False) -> Console:
    """Return where a command prints.

    With `NO_COLOR` it prints plain lines: no escape codes, not even those that move the cursor.
    """
    if os.environ.get("NO_COLOR"):
        return Console(stderr=stderr, force_terminal=False, color_system=None)
    return Console(stderr=stderr)


def refuse(problems: Sequence[str]) -> int:
    """Print one line for each error in a command; return the exit code."""
    for line in dict.fromkeys(problems):
        hidden = re.sub(
            "//.*@", "//***@", line, flags=re.DOTALL
        )  # in an address this may be a password
        shown = "".join(
            c if c.isprintable() else repr(c)[1:-1] for c in hidden
        )  # a value may hold a newline
        print(f"error: {shown}", file=sys.stderr)
    return INVALID_COMMAND


def stopped(code: int, reason: str) -> int:
    """Print that a command ended before its work did, and the command that resumes it; return the exit code."""
    print(f"{reason}; nothing committed was lost. The same command resumes it:", file=sys.stderr)
    print(f"  {shlex.join(['python', *sys.argv])}", file=sys.stderr)
    return code


def environment(problem: str) -> int:
    """Print a problem with the disk, the lock, the data or Ray; return the exit code."""
    print(f"error: {problem}", file=sys.stderr)
    return ENVIRONMENT


def show(report: Report, console: Console) -> None:
    """Print a report's table, its findings, and where its files are."""
    if report.listing is not None:
        console.print(table(report.listing))
    width = min(WIDTH, console.width)
    fill = partial(
        textwrap.fill, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )
    lines = [fill(line.replace("`", ""), width) for line in report.findings[:SENTENCES]]
    if len(report.findings) > SENTENCES:
        lines.append(f"  {len(report.findings) - SENTENCES} more in the report")
    page = next(path for path in report.files if path.suffix == ".html")
    lines += ["", f"  report  {_shown(page)}", f"  files   {_shown(page.parent)}{os.sep}"]
    for line in lines:
        plain(line, console)


def table(listing: Listing) -> Table:
    """Return a listing as a table of 80 columns."""
    drawn = Table(
        title=listing.title,
        caption=listing.caption,
        box=box.SIMPLE_HEAD,
        width=WIDTH,
        collapse_padding=True,
    )
    for i, name in enumerate(listing.header):
        style = "dim" if i in listing.muted else "yellow" if i in listing.warnings else None
        text = i in listing.text
        drawn.add_column(name, justify="left" if text else "right", no_wrap=not text, style=style)
    for i, row in enumerate(listing.rows):
        cells = [cell.replace("[", "\\[") for cell in row]  # rich would read an interval as a style
        drawn.add_row(
            *(
                f"[bold]{cell}[/]" if (i, j) in listing.bold else cell
                for j, cell in enumerate(cells)
            )
        )
    return drawn


def say_next(commands: Sequence[tuple[str, str]], console: Console) -> None:
    """Print what to type next, as (command, what it does)."""
    if not commands:
        return
    width = max(len(command) for command, _ in commands)
    fits = 2 + width + 2 + max(len(what) for _, what in commands) <= WIDTH
    plain("Next:", console)
    for command, what in commands:
        plain(f"  {command:{width}}  {what}" if fits else f"  {command}", console)


def compare(root: Path, uri: str | None) -> list[tuple[str, str]]:
    """Return the command that shows the runs in MLflow; nothing without tracking.

    Args:
        root: The output folder.
        uri: Where the runs went, as the user has named it; None for nowhere.
    """
    if uri is None:
        return []
    if uri != default_uri(root):
        command = f"mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(uri)}"
        return [(uri if uri.startswith("http") else command, "the runs in MLflow")]
    out = "" if root == default_root() else f" --out {shlex.quote(_shown(root))}"
    return [(f"python -m studies ui{out}", "compare the runs in MLflow")]


def plain(line: str, console: Console) -> None:
    """Print a line as it is, however long."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _shown(path: Path) -> str:
    """Return the shortest form of a path."""
    return min(os.path.relpath(path), str(path.resolve()), key=len)
