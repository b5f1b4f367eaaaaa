"""The commands of `python -m studies`, over all artefacts and all trial folders."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from precond.hyperparameters import nearest
from studies.harness.command.cli import EXIT_CODES, SETTINGS
from studies.harness.command.options import FLAGS
from studies.harness.command.screen import environment, refuse, terminal
from studies.harness.design.ending import COMPLETE
from studies.harness.design.options import default_root
from studies.harness.kinds import ORDER
from studies.harness.kinds.artefact import Artefact

GROUP = click.Group(
    "studies", context_settings=SETTINGS, help="Studies of preconditioned optimizers."
)
OUT = click.Option(
    ["--out", "root"],
    type=Path,
    default=default_root,
    help="Output folder.  [default: $PRECOND_OUT or outputs]",
)
STUDIES = Path(__file__).parents[2]  # the folder of the study files
KEY_DIGITS = 6  # fewer digits of a key are not looked up


def artefacts() -> dict[str, Artefact]:
    """Return every artefact of the package's study files by name, kind by kind."""
    literals = []
    for module in pkgutil.iter_modules([str(STUDIES)]):
        if not module.ispkg and not module.name.startswith("_"):
            values = vars(importlib.import_module(f"studies.{module.name}")).values()
            literals += [value for value in values if isinstance(value, Artefact)]
    order = {kind: number for number, kind in enumerate(ORDER)}
    literals.sort(key=lambda artefact: order.get(artefact.KIND, len(order)))
    return {artefact.name: artefact for artefact in literals}


def markdown() -> str:
    """Return a table of every artefact and what it reproduces, for the README."""
    rows = [("study", "what it is", "artefact", "runs on (and, in the paper, on)"), ("---",) * 4]
    for artefact in artefacts().values():
        paper = ", ".join(artefact.published)
        workloads = f"{artefact.workload} ({paper})" if paper else artefact.workload
        rows.append((f"`{artefact.name}`", artefact.title, artefact.citation, workloads))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@GROUP.command(
    "list",
    help="Every study, the artefact it reproduces, and its state here.",
    params=[
        OUT,
        click.Option(["--markdown", "as_markdown"], is_flag=True, help="The README's table."),
    ],
)
def _list(root: Path, as_markdown: bool) -> int:
    if as_markdown:
        print(markdown())
        return COMPLETE
    table = Table(
        Column("study", no_wrap=True),
        "artefact",
        "workload",
        "done",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for artefact in artefacts().values():
        table.add_row(artefact.name, artefact.citation, artefact.workload, artefact.state(root))
    terminal().print(table)
    return COMPLETE


@GROUP.command(
    "run",
    help="Run several studies with one driver; a trial that two of them need is trained once.",
    epilog=EXIT_CODES,
    params=[click.Argument(["names"], nargs=-1, required=True, metavar="STUDY..."), *FLAGS],
)
def _run(names: tuple[str, ...], **raw: Any) -> int:
    from studies.harness.command.options import parse
    from studies.harness.command.run import run

    known = artefacts()
    options, errors = parse(raw)
    errors = [
        f'study "{name}": unknown.{nearest(name, known)}' for name in names if name not in known
    ] + errors
    return run([known[name] for name in names if name in known], options, errors)


@GROUP.command(
    "status",
    help="How many trials of the output folder are where, and what is in flight; also while one runs.",
    params=[OUT],
)
def _status(root: Path) -> int:
    from studies.harness.evidence.status import IN_FLIGHT
    from studies.harness.kinds.search.proposals import STOPPED, stopped_keys
    from trainables.files import read_lines
    from trainables.store import read_config, read_status, trial_folders

    console, counts = terminal(), Counter[str]()
    given_up = {key[:16] for key in stopped_keys(root)}
    for folder in trial_folders(root):
        status = {"status": STOPPED} if folder.name in given_up else read_status(folder)
        counts[status["status"] if status else IN_FLIGHT] += 1
        if status is None:
            config = read_config(folder)["config"]
            lines, attempts = (
                read_lines(folder / "epochs.jsonl"),
                read_lines(folder / "attempts.jsonl"),
            )
            since = f", begun {_ago(attempts[-1]['time'])}" if attempts else ", not begun"
            done = f"{len(lines)}/{config['epochs']} epochs committed{since}"
            console.print(
                f"{folder.name}  {config['optimizer']} s{config['seed']}: {done}", highlight=False
            )
    console.print(
        ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        or f"no trials in {root}"
    )
    return COMPLETE


@GROUP.command(
    "show",
    help="A trial's configuration, status and last epoch.",
    params=[click.Argument(["key"]), OUT],
)
def _show(key: str, root: Path) -> int:
    from trainables.files import read_lines
    from trainables.store import read_config, read_status

    folders, errors = _find(root, key)
    if errors:
        return refuse(errors)
    [folder] = folders
    lines = read_lines(folder / "epochs.jsonl")
    document = {
        **read_config(folder),
        "status": read_status(folder),
        "epochs committed": len(lines),
    }
    print(
        json.dumps(
            {**document, "last epoch": lines[-1] if lines else None, "folder": str(folder)},
            indent=2,
        )
    )
    return COMPLETE


@GROUP.command(
    "explain",
    help="Which fields make two trials different.",
    params=[click.Argument(["one"]), click.Argument(["other"]), OUT],
)
def _explain(one: str, other: str, root: Path) -> int:
    from trainables.store import read_config

    folders, errors = _find(root, one, other)
    if errors:
        return refuse(errors)
    left, right = (_flat(read_config(folder)["config"]) for folder in folders)
    absent = "(absent)"
    for name in {**left, **right}:
        if left.get(name, absent) != right.get(name, absent):
            print(f"{name}: {left.get(name, absent)} | {right.get(name, absent)}")
    if left == right:
        print("the same trial")
    return COMPLETE


@GROUP.command(
    "sync",
    help="Send to MLflow what it still lacks of every study.",
    params=[OUT, click.Option(["--tracking-uri"], metavar="URI", help="[default: OUT/mlflow.db]")],
)
def _sync(root: Path, tracking_uri: str | None) -> int:
    from studies.harness.command import reports
    from studies.harness.tracking import view

    try:
        literals = artefacts().values()
        for name, sent in view.everything(
            literals, root, tracking_uri, lambda plan: reports.last(plan.folder)[1]
        ):
            print(f"{name}: {sent}")
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        return environment(f"{type(error).__name__}: {first_line}; nothing is lost, try again")
    return COMPLETE


@GROUP.command(
    "check-cluster",
    help="What is misspelt, unsafe or still an example in a cluster's file, before `ray up`.",
    params=[click.Argument(["file"], type=Path)],
)
def _check_cluster(file: Path) -> int:
    from studies.harness.cluster import check

    if errors := check.check(file):
        return refuse(errors)
    print(f"{file}: nothing found; ray up {file}")
    return COMPLETE


@GROUP.command(
    "ui",
    help="Links that compare the studies' runs, then the MLflow UI on this machine's own address.",
    params=[
        OUT,
        click.Option(["--port"], type=click.IntRange(1, 65535), default=5000, show_default=True),
        click.Option(["--links-only"], is_flag=True, help="Print the links and stop."),
    ],
)
def _ui(root: Path, port: int, links_only: bool) -> int:
    from studies.harness.tracking import ui

    if not (root / "mlflow.db").exists():
        return refuse(
            [f"{root}: no runs there yet; run a study first, or name its folder with --out"]
        )
    for what, address in ui.links(root, f"http://127.0.0.1:{port}"):
        print(f"{what}\n  {address}")
    return COMPLETE if links_only else ui.serve(root, port)


@GROUP.command(
    "clean",
    help="Remove what nothing reads (quarantined and half-written checkpoints), and the trials named by KEY.",
    params=[
        click.Argument(["keys"], nargs=-1, metavar="[KEY]..."),
        OUT,
        click.Option(["--dry-run"], is_flag=True, help="Say what would go, and how large it is."),
    ],
)
def _clean(keys: tuple[str, ...], root: Path, dry_run: bool) -> int:
    from studies.harness.command import lock
    from trainables.store import StoreError, trial_folders

    paths, errors = _find(root, *keys)
    if errors:
        return refuse(errors)
    paths += [
        path
        for folder in trial_folders(root)
        for path in (*folder.glob("quarantine"), *folder.glob("*.tmp"))
    ]
    for path in paths:
        size = sum(inner.stat().st_size for inner in (path, *path.rglob("*")) if inner.is_file())
        print(f"{size / 2**20:8.1f} MB  {path}")
    if dry_run or not paths:
        print("nothing was removed (--dry-run)" if paths else "nothing to clean")
        return COMPLETE
    try:
        with lock.exclusive(root):  # a running driver may still need them
            for path in paths:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except StoreError as problem:
        return environment(str(problem))
    return COMPLETE


def _find(root: Path, *keys: str) -> tuple[list[Path], list[str]]:
    """Return the folders of the trials whose keys start with `keys`, and a line for each key that names no trial."""
    from trainables.store import trial_folders

    folders, errors = [], []
    for key in keys:
        matches = [folder for folder in trial_folders(root) if folder.name.startswith(key[:16])]
        folders += matches
        if len(key) < KEY_DIGITS or len(matches) != 1:
            digits = f"give at least {KEY_DIGITS} digits of one key"
            errors.append(f"{key}: {len(matches)} trials in {root} start so; {digits}")
    return folders, errors


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def _ago(moment: float) -> str:
    seconds = max(0, round(time.time() - moment))
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
