"""The command `python -m studies merge`, which collects the results of several output folders."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from studies.harness.command.catalogue import OUT
from studies.harness.command.screen import environment, refuse
from studies.harness.design.ending import COMPLETE
from trainables.files import StoreError

if TYPE_CHECKING:
    from studies.harness.transfer.plan import MergePlan, Step

INTO = click.Option(
    ["--into"],
    type=OUT.type,
    metavar="FOLDER",
    required=True,
    help="Output folder that will contain all results: a new folder, or one of the others.",
)
DRY_RUN = click.Option(["--dry-run"], is_flag=True, help="Print the copies; write nothing.")


@click.command(
    "merge",
    help="Copy the trials, probes, searches, cost results, judgements and plugins of output "
    "folders into one. Folders are only read, except that of --into. A trial that has ended replaces "
    "one in flight. Different results of the same trial, and damaged folders, are refused before "
    "anything is written. Reports and MLflow's database are not merged, because they can be rebuilt.",
    params=[
        click.Argument(["sources"], nargs=-1, required=True, type=OUT.type, metavar="FOLDER..."),
        INTO,
        DRY_RUN,
    ],
)
def _merge(sources: Sequence[Path], into: Path, dry_run: bool) -> int:
    if errors := _invalid(sources, into):
        return refuse(errors)
    return merge(sources, into, dry_run)


def _invalid(sources: Sequence[Path], into: Path) -> list[str]:
    """Return a line for each folder that cannot be merged."""
    from studies.harness.transfer.plan import KINDS, places

    errors = []
    for root in sources:
        if not root.is_dir():
            errors.append(f"{root}: is not a folder; name output folders")
        elif root.resolve() == into.resolve():
            continue  # a merge that was killed may have put the only result aside
        elif not any(True for kind in KINDS for _ in places(root, kind)):
            errors.append(f"{root}: contains no results; name output folders")
    if into.exists() and not into.is_dir():
        errors.append(f"--into = {into}: must be a folder")
    return errors


def merge(
    sources: Sequence[Path],
    into: Path,
    dry_run: bool = False,
    shown: Callable[[str], str] = lambda line: line,
) -> int:
    """Merge output folders, and print a summary; return the exit code.

    Args:
        sources: Existing output folders, which are only read.
        into: The output folder that will contain all results.
        dry_run: True to print the steps and write nothing.
        shown: A function that replaces names in each line, such as that of a temporary folder.
    """
    from studies.harness.command import lock
    from studies.harness.transfer import place
    from studies.harness.transfer.plan import plan
    from trainables.store import lock_generation

    others = [root for root in sources if root.resolve() != into.resolve()]
    try:
        with ExitStack() as locks:
            for root in others:
                locks.enter_context(lock.unused(root))
            with lock.unused(into):
                merged = plan(others, into)
            if merged.refused:
                return refuse([*map(shown, _problems(merged))])
            if not dry_run and (merged.steps or (into / place.ASIDE).exists()):
                after = max((lock_generation(root) or 0 for root in others), default=0)
                with lock.exclusive(into, after):
                    # Plan again: a driver may have ended a trial before the folder was locked.
                    place.recover(into)
                    merged = plan(others, into)
                    if merged.refused:
                        return refuse([*map(shown, _problems(merged))])
                    for step in merged.steps:
                        place.place(step, into)
                    place.clear(into)
    except (StoreError, OSError) as error:
        return environment(shown(str(error)))
    for line in _lines(merged, into, dry_run):
        print(shown(line))
    return COMPLETE


def _problems(merged: MergePlan) -> list[str]:
    """Return a line for each reason to refuse a merge."""
    from studies.harness.command.naming import Names

    configs = [conflict.config for conflict in merged.conflicts if conflict.config]
    names = Names(configs)
    lines = []
    for conflict in merged.conflicts:
        name = f" ({names(conflict.config)})" if conflict.config else ""
        lines.append(f"{conflict.key}{name}: {conflict.difference}; move one of them away")
    return [*merged.errors, *lines]


def _lines(merged: MergePlan, into: Path, dry_run: bool) -> Iterator[str]:
    """Yield the steps of a dry run, the notes, the numbers of each kind, and the next command."""
    for step in merged.steps if dry_run else ():
        yield _line(step)
    yield from merged.notes
    numbers = Counter((step.kind, step.replaces) for step in merged.steps)
    for kind in dict.fromkeys([*(step.kind for step in merged.steps), *merged.present]):
        copied, replaced = numbers[kind, False], numbers[kind, True]
        yield f"{kind}: {copied} copied, {replaced} replaced, {merged.present[kind]} already there"
    if dry_run:
        yield "Nothing was written (--dry-run)."
        return
    command = shlex.join(["python", "-m", "studies", "sync", "--out", str(into)])
    yield "Reports and MLflow's database are not merged. A study's command with --report-only"
    yield f"writes its report; to send the results to MLflow: {command}"


def _line(step: Step) -> str:
    verb = "replace" if step.replaces else "copy"
    source = "" if step.decision.content else f" from {step.decision.source}"
    reason = f" ({step.decision.reason})" if step.decision.reason else ""
    return f"{verb} {step.place}{source}{reason}"


COMMANDS = (_merge,)
