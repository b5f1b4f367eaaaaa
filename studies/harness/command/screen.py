"""The end of a command's output: a sentence for each thing found, where the files are, what to type next."""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from studies.harness.evidence import ledger
from studies.harness.kinds.study.study import Trial

WIDTH = 80
SENTENCES = 10  # a report may have one for each of a hundred levels


def terminal(*, stderr: bool = False) -> Console:
    """Where a command prints. With `NO_COLOR`, plain lines: no escape codes, not even those that move the cursor."""
    if os.environ.get("NO_COLOR"):
        return Console(stderr=stderr, force_terminal=False, color_system=None)
    return Console(stderr=stderr)


def say(found: Sequence[str], files: Sequence[Path], console: Console) -> None:
    """What a report found, and where it is.

    Args:
        found: `document.findings` of the report.
        files: The report's.
        console: Where to print.
    """
    lines = [_sentence(line, console) for line in found[:SENTENCES]]
    if len(found) > SENTENCES:
        lines.append(f"  {len(found) - SENTENCES} more in the report")
    page = next(path for path in files if path.suffix == ".html")
    lines += ["", f"  report  {_shown(page)}", f"  files   {_shown(page.parent)}{os.sep}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def say_next(commands: Sequence[tuple[str, str]], console: Console) -> None:
    """What to type next, as (command, what it does)."""
    if not commands:
        return
    width = max(len(command) for command, _ in commands)
    fits = 2 + width + 2 + max(len(what) for _, what in commands) <= WIDTH
    console.print("Next:", highlight=False)
    for command, what in commands:
        line = f"  {command:{width}}  {what}" if fits else f"  {command}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def compare(root: Path, uri: str | None, shown_uri: str) -> list[tuple[str, str]]:
    """The command that shows the runs in MLflow; none without tracking.

    Args:
        root: The output folder.
        uri: Where the runs went; None for nowhere.
        shown_uri: The same as the user has named it.
    """
    if uri is None:
        return []
    if uri != f"sqlite:///{root.resolve() / 'mlflow.db'}":
        command = f"mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(shown_uri)}"
        return [(shown_uri if uri.startswith("http") else command, "the runs in MLflow")]
    out = "" if root == ledger.default_root() else f" --out {shlex.quote(_shown(root))}"
    return [(f"python -m studies ui{out}", "compare the runs in MLflow")]


def further(trials: Collection[Trial]) -> list[tuple[str, str]]:
    """One more seed; nothing where the seeds were picked."""
    seeds = {trial.config.seed for trial in trials}
    if seeds != set(range(len(seeds))):
        return []
    return [(f"the same command with --seeds {len(seeds) + 1}", "trains one more seed of each arm")]


def _sentence(text: str, console: Console) -> str:
    plain = text.replace("`", "")
    width = min(WIDTH, console.width)
    return textwrap.fill(plain, width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _shown(path: Path) -> str:
    """A path as it is shortest."""
    return min(os.path.relpath(path), str(path.resolve()), key=len)
