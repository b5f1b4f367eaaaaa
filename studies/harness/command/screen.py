"""Terminal output of a command: errors, tables, findings, paths of files, and the next commands."""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from precond.counts import counted
from studies.harness.design.ending import ENVIRONMENT, INVALID_COMMAND
from studies.harness.design.options import default_root, default_uri
from studies.harness.design.result import Listing, Report

WIDTH = 80
VERDICTS = {"supported": "bold green", "contradicted": "bold red", "inconclusive": "bold"}
MAX_FINDINGS = 10  # shown on the terminal; a report may have a finding for each of 100 levels


def terminal(*, stderr: bool = False) -> Console:
    """Return the console of a command.

    If `NO_COLOR` is set, the console prints no escape codes, not even those that move the cursor.
    """
    if os.environ.get("NO_COLOR"):
        return Console(stderr=stderr, force_terminal=False, color_system=None)
    return Console(stderr=stderr)


def redirected(as_json: bool) -> AbstractContextManager[Any]:
    """Return a context that sends the output of plugins and study files to standard error.

    Without `--json`, it changes nothing. With it, standard output contains the results only.
    """
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def refuse(problems: Sequence[str]) -> int:
    """Print one line for each error in a command; return the exit code."""
    for line in printable(problems):
        print(f"error: {line}", file=sys.stderr)
    return INVALID_COMMAND


def printable(problems: Iterable[str]) -> list[str]:
    """Return each different error as one line without the password of an address."""
    lines = []
    for line in dict.fromkeys(problems):
        # An address may contain a password, and a value may contain a newline.
        redacted = re.sub("//.*@", "//***@", line, flags=re.DOTALL)
        lines.append("".join(c if c.isprintable() else repr(c)[1:-1] for c in redacted))
    return lines


def stopped(code: int, reason: str) -> int:
    """Print why a command was stopped and which command resumes it; return the exit code."""
    print(
        f"{reason}; all committed results are kept. To resume, run the same command:",
        file=sys.stderr,
    )
    print(f"  {shlex.join(['python', *sys.argv])}", file=sys.stderr)
    return code


def environment(problem: str) -> int:
    """Print a problem with the disk, the lock, the data or Ray; return the exit code."""
    print(f"error: {problem}", file=sys.stderr)
    return ENVIRONMENT


def show(report: Report, console: Console) -> None:
    """Print a report's decisions on its claims, its table, its findings, and its files' paths."""
    _show_claims(report.claims, console)
    if report.listing is not None:
        # A narrower terminal breaks the lines, so that no column is lost.
        console.print(table(report.listing), crop=False)
    lines = [_item(line, console) for line in report.findings[:MAX_FINDINGS]]
    if len(report.findings) > MAX_FINDINGS:
        lines.append(f"  The report has {len(report.findings) - MAX_FINDINGS} more findings.")
    for page in [path for path in report.files if path.suffix == ".html"]:
        lines += ["", f"  report  {shortest(page)}", f"  files   {shortest(page.parent)}{os.sep}"]
    for line in lines:
        plain(line, console)


def _item(sentence: str, console: Console) -> str:
    """Return a sentence as an item of a list, with line breaks."""
    width = min(WIDTH, console.width)
    fill = partial(textwrap.fill, subsequent_indent="  ", break_on_hyphens=False)
    return fill("- " + sentence.replace("`", ""), width)


def _show_claims(claims: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the decisions on the claims; only the number of those that were not tested."""
    tested = [claim for claim in claims if claim["verdict"] in VERDICTS]
    if claims:
        plain("Claims:", console)
    for claim in tested:
        text = Text(_item(claim["sentence"], console))
        text.stylize(VERDICTS[claim["verdict"]], 2, 2 + len(claim["verdict"]))
        console.print(text, highlight=False, soft_wrap=True)
    if rest := len(claims) - len(tested):
        line = (
            f"Not tested: {rest} of {counted(len(claims), 'claim')}; the report states the reasons."
        )
        plain(_item(line, console), console)


def table(listing: Listing) -> Table:
    """Return a listing as a table that is 80 columns wide."""
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
        # A name that is longer than its column continues on the next line.
        look: Any = {"justify": "left" if text else "right", "overflow": "fold", "style": style}
        drawn.add_column(name, no_wrap=not text, **look)
    for i, row in enumerate(listing.rows):
        # Escape brackets, because rich would parse an interval such as [0.9, 1.1] as a style.
        cells = [cell.replace("[", "\\[") for cell in row]
        bold = [(i, j) in listing.bold for j in range(len(cells))]
        drawn.add_row(*(f"[bold]{c}[/]" if b else c for c, b in zip(cells, bold, strict=True)))
    return drawn


def print_next_steps(commands: Sequence[tuple[str, str]], console: Console) -> None:
    """Print the commands that a user may want to run next, given as (command, purpose)."""
    if not commands:
        return
    width = max(len(command) for command, _ in commands)
    fits = 2 + width + 2 + max(len(purpose) for _, purpose in commands) <= WIDTH
    plain("Next:", console)
    for command, purpose in commands:
        plain(
            f"  {command:{width}}  {purpose}" if fits else f"  {command}\n      {purpose}", console
        )


def compare(root: Path, uri: str | None) -> list[tuple[str, str]]:
    """Return the command or the server's address that shows the runs in MLflow.

    The list is empty without tracking.

    Args:
        root: The output folder.
        uri: MLflow's server or database, as in the command; None without tracking.
    """
    if uri is None:
        return []
    if uri != default_uri(root):
        command = f"mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(uri)}"
        return [(uri if uri.startswith("http") else command, "show the runs in MLflow")]
    out = "" if root == default_root() else f" --out {shlex.quote(shortest(root))}"
    return [(f"python -m studies ui{out}", "compare the runs in MLflow")]


def plain(line: str, console: Console) -> None:
    """Print a line without markup and without line breaks."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def shortest(path: Path) -> str:
    """Return the relative or the absolute form of a path, whichever is shorter."""
    return min(os.path.relpath(path), str(path.resolve()), key=len)
