"""The commands of `python -m studies` for MLflow: sync and ui."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from precond.counts import counted
from studies.harness.command.catalogue import OUT, URI, artefacts
from studies.harness.command.export import TO, export
from studies.harness.command.screen import environment, refuse
from studies.harness.design.ending import COMPLETE, SOME_FAILED
from studies.harness.design.options import default_root
from trainables.files import StoreError

if TYPE_CHECKING:
    from studies.harness.tracking.sync import Update


@click.command(
    "sync",
    help="Send missing results of all studies to MLflow, and print what was sent. A study that "
    "cannot be sent has a line with the reason, and the exit code is 1.",
    params=[OUT, URI, TO],
)
def _sync(root: Path, tracking_uri: str | None, to: tuple[str, Path] | None = None) -> int:
    if to is not None:
        return export(root, *to, tracking_uri)
    from studies.harness.command import reports
    from studies.harness.tracking import sync

    updates: list[Update] = []
    skipped: list[str] = []
    try:
        for update in sync.send_all(
            artefacts().values(), root, tracking_uri, lambda plan: reports.last(plan.folder)[1]
        ):
            if update.skipped:
                skipped += update.skipped
                continue
            updates.append(update)
            if update.sent.restored:
                print(update.sent.restored)
            print(f"{update.name}: {_outcome(update)}")
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        problem = f"{tracking_uri or root} cannot be used ({type(error).__name__}: {first_line})"
        return environment(f"sync failed, because {problem}; no results are lost")
    for line in [*skipped, *_unknown_studies(root)]:
        print(line)
    if line := _unsent(updates, root):
        print(line)
    return SOME_FAILED if any(update.error for update in updates) else COMPLETE


def _unknown_studies(root: Path) -> list[str]:
    """Return a line for each report of a study that is not in `studies/`."""
    from studies.harness.command.listing import command, entries

    known = artefacts()
    return [
        f"{record['study']} on {record['workload']}: not sent, because its study is not one of "
        f"`python -m studies list`; to send it: {command(record, root)}"
        for record in entries(root).values()
        if record.get("study", "tune-recipe") not in (*known, "tune-recipe")
    ]


def _outcome(update: Update) -> str:
    """Return what was sent, or why it was not, in one line."""
    if update.error is None:
        return str(update.sent)
    if isinstance(update.error, StoreError) and update.error.advice:  # it is about another run
        advice = "to send it, repeat the command that ran it, with --report-only"
        return f"not sent, because {update.error.problem}; {advice}"
    reason = " ".join(str(update.error).split()) or type(update.error).__name__
    return f"not sent, because {reason}"


def _unsent(updates: Sequence[Update], root: Path) -> str:
    """Return a line if the folder has no trials, or trials that belong to no study or selection.

    Otherwise the text is empty.
    """
    from trainables.store import trial_folders

    keys = [folder.name for folder in trial_folders(root)]
    if not keys and not updates:
        return f"no results to send in {root}; run a study first, or name a folder with --out"
    if any(update.error for update in updates):
        return ""  # the trials may belong to a study that was not sent
    known = {key[:16] for update in updates for key in update.trials}
    number = len({*keys} - known)
    if not number:
        return ""
    verb = "belongs" if number == 1 else "belong"
    return (
        f"{number} of {counted(len(keys), 'trial')} in {root} {verb} to no study or selection above; to "
        "send the results, repeat the command that trained them, with --report-only"
    )


@click.command(
    "ui",
    help="Start the MLflow UI on 127.0.0.1. First print the addresses of pages that compare runs.",
    params=[
        OUT,
        click.Option(
            ["--port"],
            type=click.IntRange(1, 65535),
            default=5000,
            show_default=True,
            help="Port of the UI.",
        ),
        click.Option(["--links-only"], is_flag=True, help="Print the addresses and exit."),
    ],
)
def _ui(root: Path, port: int, links_only: bool) -> int:
    if not (root / "mlflow.db").exists():
        return refuse([f"{root}: has no MLflow database; {_way_to_database(root)}"])
    if links_only:
        _print_links(root, port)
        return COMPLETE
    try:
        reserved = _reserve(port)
    except OSError as error:
        with _reserve(0) as other:
            free = other.getsockname()[1]
        advice = f"use a free port, such as --port {free}, or stop the program that uses this one"
        return environment(f"--port = {port}: {error.strerror}; {advice}")
    with reserved:
        _print_links(root, port)
    from studies.harness.tracking import ui

    return ui.serve(root, port)


def _way_to_database(root: Path) -> str:
    """Return what a user can do about a folder without an MLflow database."""
    from trainables.store import trial_folders

    if not any(trial_folders(root)):
        return "run a study first, or name its folder with --out"
    if not _has_runs(root):
        return "to build it, repeat the command that trained the trials, with --report-only"
    command = ["python", "-m", "studies", "sync"]
    command += [] if root == default_root() else ["--out", str(root)]
    return f"to build it from the trials: {shlex.join(command)}"


def _has_runs(root: Path) -> bool:
    """Return True if `sync` would send the results of a study."""
    for artefact in artefacts().values():
        # As in `sync`, a study that cannot be read does not affect the others.
        with suppress(Exception):
            if any(artefact.tracking(plan) for plan in artefact.stored(root).plans):
                return True
    return False


def _reserve(port: int) -> socket.socket:
    """Return a socket that keeps a port of the loopback address until the server needs it.

    Raises:
        OSError: Another program uses the port, or this user may not use it.
    """
    reserved = socket.socket()
    # As the server does: a port that was in use a moment ago is free.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind(("127.0.0.1", port))
        reserved.listen(1)
    except OSError:
        reserved.close()
        raise
    return reserved


def _print_links(root: Path, port: int) -> None:
    from studies.harness.tracking import ui

    for page, address in ui.links(root, f"http://{ui.HOST}:{port}"):
        print(f"{page}\n  {address}")


COMMANDS = (_sync, _ui)
