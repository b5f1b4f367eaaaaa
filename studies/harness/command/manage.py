"""The commands of `python -m studies`, over all artefacts and all trial folders."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from precond.hyperparameters import HyperparameterError, nearest
from studies.harness.command.cli import EXIT_CODES, SETTINGS
from studies.harness.command.options import FLAGS
from studies.harness.command.screen import environment, refuse, terminal
from studies.harness.command.tune import COMMAND as TUNE_RECIPE
from studies.harness.design.ending import COMPLETE, SOME_FAILED
from studies.harness.design.options import default_root
from studies.harness.kinds import ORDER
from studies.harness.kinds.artefact import Artefact

GROUP = click.Group(
    "studies",
    context_settings=SETTINGS,
    help="List, run and inspect the studies. To run a single study, use its file: python "
    "studies/NAME.py --help",
)
GROUP.add_command(TUNE_RECIPE)
OUT = click.Option(
    ["--out", "root"],
    type=Path,
    default=default_root,
    help="Output folder (OUT).  [default: $PRECOND_OUT or outputs]",
)
URI = click.Option(
    ["--tracking-uri"], metavar="URI", help="MLflow server or database.  [default: OUT/mlflow.db]"
)
STUDIES = Path(__file__).parents[2]  # the folder of the study files
KEY_DIGITS = 6  # required of a key on the command line


def artefacts() -> dict[str, Artefact]:
    """Return the artefacts of all study files by name, in the order of their kinds."""
    literals = []
    for module in pkgutil.iter_modules([str(STUDIES)]):
        if not module.ispkg and not module.name.startswith("_"):
            values = vars(importlib.import_module(f"studies.{module.name}")).values()
            literals += [value for value in values if isinstance(value, Artefact)]
    order = {kind: number for number, kind in enumerate(ORDER)}
    literals.sort(key=lambda artefact: order.get(artefact.KIND, len(order)))
    return {artefact.name: artefact for artefact in literals}


def markdown() -> str:
    """Return the README's table of all artefacts and what they reproduce."""
    rows = [("study", "title", "reproduces", "workload (workloads of the paper)"), ("---",) * 4]
    for artefact in artefacts().values():
        paper = ", ".join(artefact.published)
        workloads = f"{artefact.workload} ({paper})" if paper else artefact.workload
        rows.append((f"`{artefact.name}`", artefact.title, artefact.citation, workloads))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@GROUP.command(
    "list",
    help="List all studies. Print what each reproduces, and how many of its trials are done.",
    params=[
        OUT,
        click.Option(
            ["--markdown", "as_markdown"],
            is_flag=True,
            help="Print the studies as the table of README.md.",
        ),
    ],
)
def _list(root: Path, as_markdown: bool) -> int:
    if as_markdown:
        print(markdown())
        return COMPLETE
    columns = Column("study", no_wrap=True), "reproduces", "workload", "done"
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for artefact in artefacts().values():
        table.add_row(artefact.name, artefact.citation, artefact.workload, _state(artefact, root))
    terminal().print(table)
    return COMPLETE


def _state(artefact: Artefact, root: Path) -> str:
    """Return the state of an artefact; `invalid` if its command would be refused."""
    try:
        return artefact.state(root)
    except HyperparameterError:
        return "invalid"


@GROUP.command(
    "run",
    help="Run several studies. A trial that several of them need is trained once.",
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
    help="Count trials by status. Also list the trials in flight, which have not ended; a study may "
    "run at the same time.",
    params=[OUT],
)
def _status(root: Path) -> int:
    from studies.harness.evidence.status import IN_FLIGHT
    from studies.harness.kinds.search.proposals import STOPPED, stopped_keys
    from trainables.files import read_lines
    from trainables.store import read_config, read_status, trial_folders

    console, counts, unfinished = terminal(), Counter[str](), []
    stopped = {key[:16] for key in stopped_keys(root)}
    for folder in trial_folders(root):
        status = {"status": STOPPED} if folder.name in stopped else read_status(folder)
        counts[status["status"] if status else IN_FLIGHT] += 1
        if status is None:
            unfinished.append((folder, read_config(folder)["config"]))
    varied = _varied([config for _, config in unfinished])
    for folder, config in unfinished:
        epochs = read_lines(folder / "epochs.jsonl")
        attempts = read_lines(folder / "attempts.jsonl")
        start = f"started {_ago(attempts[-1]['time'])}" if attempts else "not started"
        levels = _levels(config, varied[config["workload"], config["optimizer"]])
        name = " ".join([config["optimizer"], *levels, f"seed {config['seed']}"])
        done = f"{len(epochs)}/{config['epochs']} epochs committed"
        console.print(f"{folder.name}  {name}: {done}, {start}", highlight=False)
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    nothing = f"no trials in {root}; run a study first, or name a folder with --out"
    console.print(f"trials: {summary}" if counts else nothing)
    return COMPLETE


@GROUP.command(
    "show",
    help="Print a trial's configuration, status and last epoch. KEY is the name of its folder in "
    "OUT/trials, or at least the first 6 digits of the name.",
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
        "last epoch": lines[-1] if lines else None,
        "folder": str(folder),
    }
    print(json.dumps(document, indent=2))
    return COMPLETE


@GROUP.command(
    "explain",
    help="Print the differences between two configurations. A key is the name of a trial's folder in "
    "OUT/trials, or at least the first 6 digits of the name.",
    params=[click.Argument(["first_key"]), click.Argument(["second_key"]), OUT],
)
def _explain(first_key: str, second_key: str, root: Path) -> int:
    from trainables.store import read_config

    folders, errors = _find(root, first_key, second_key)
    if errors:
        return refuse(errors)
    left, right = (_flat(read_config(folder)["config"]) for folder in folders)
    absent = "(absent)"
    for name in {**left, **right}:
        if left.get(name, absent) != right.get(name, absent):
            print(f"{name}: {left.get(name, absent)} | {right.get(name, absent)}")
    if left == right:
        print("The two keys name the same trial.")
    return COMPLETE


@GROUP.command(
    "sync",
    help="Send missing results of all studies to MLflow. A search whose settings in OUT differ from "
    "those of its study file is not sent, and the exit code is 1.",
    params=[OUT, URI],
)
def _sync(root: Path, tracking_uri: str | None) -> int:
    from studies.harness.command import reports
    from studies.harness.kinds.search.proposals import DifferentSearch
    from studies.harness.tracking import view

    code, results = COMPLETE, 0
    try:
        for artefact in artefacts().values():
            views = view.send_all(
                [artefact], root, tracking_uri, lambda plan: reports.last(plan.folder)[1]
            )
            try:
                for name, sent in views:
                    print(f"{name}: {sent}")
                    results += 1
            except DifferentSearch as error:
                facts = str(error).partition(": ")[0]
                advice = "to send it, repeat the command that ran it, with --report-only"
                print(f"{artefact.name}: not sent, because {facts}; {advice}")
                code = SOME_FAILED
        if not results and code == COMPLETE:
            print(f"no results to send in {root}; run a study first, or name a folder with --out")
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        return environment(
            f"sync failed ({type(error).__name__}: {first_line}); no results are lost; try again"
        )
    return code


@GROUP.command(
    "check-cluster",
    help="Check a cluster file before `ray up`. Report misspelt keys, unsafe settings and values "
    "left from the example.",
    params=[click.Argument(["file"], type=Path)],
)
def _check_cluster(file: Path) -> int:
    from studies.harness.cluster import check

    if errors := check.check(file):
        return refuse(errors)
    print(f"{file}: no errors. To start the cluster: ray up {file}")
    return COMPLETE


@GROUP.command(
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
    from studies.harness.tracking import ui

    if not (root / "mlflow.db").exists():
        return refuse(
            [f"{root}: has no MLflow database; run a study first, or name its folder with --out"]
        )
    for page, address in ui.links(root, f"http://127.0.0.1:{port}"):
        print(f"{page}\n  {address}")
    return COMPLETE if links_only else ui.serve(root, port)


@GROUP.command(
    "clean",
    help="Delete unusable checkpoints and the given trials. Unusable checkpoints are damaged or "
    "half-written. KEY is the name of a trial's folder in OUT/trials, or at least the first 6 digits "
    "of the name.",
    params=[
        click.Argument(["keys"], nargs=-1, metavar="[KEY]..."),
        OUT,
        click.Option(["--dry-run"], is_flag=True, help="Print paths and sizes; delete nothing."),
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
        print("Nothing was deleted (--dry-run)." if paths else "There is nothing to delete.")
        return COMPLETE
    try:
        with lock.exclusive(root):  # a running driver may still need the files
            for path in paths:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except StoreError as problem:
        return environment(str(problem))
    return COMPLETE


def _find(root: Path, *keys: str) -> tuple[list[Path], list[str]]:
    """Return the trial folders whose keys start with `keys`, and a line for each invalid key."""
    from trainables.store import trial_folders

    folders, errors = [], []
    for key in keys:
        matches = [folder for folder in trial_folders(root) if folder.name.startswith(key[:16])]
        folders += matches
        if len(key) < KEY_DIGITS or len(matches) != 1:
            errors.append(
                f"{key}: matches the keys of {len(matches)} trials in {root}; "
                f"must be at least the first {KEY_DIGITS} digits of one key"
            )
    return folders, errors


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def _varied(configs: Sequence[dict[str, Any]]) -> dict[tuple[str, str], set[str]]:
    """Return the names of the values that differ, by workload and optimizer."""
    values: dict[tuple[str, str], dict[str, set[str]]] = {}
    for config in configs:
        names = values.setdefault((config["workload"], config["optimizer"]), {})
        for name, value in _values(config).items():
            names.setdefault(name, set()).add(str(value))
    return {
        identity: {name for name, different in names.items() if len(different) > 1}
        for identity, names in values.items()
    }


def _values(config: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's fields, the settings and the hyperparameters of a trial."""
    fields = {name: config[name] for name in ("batch_size", "epochs", "schedule")}
    return {**fields, **config.get("settings", {}), **config["hyperparameters"]}


def _levels(config: dict[str, Any], varied: set[str]) -> list[str]:
    """Return the values that distinguish a trial, such as `rank=5`.

    They are the values in `varied`, and the hyperparameters that differ from the recipe.
    """
    from precond.hyperparameters import HyperparameterError
    from trainables.config import TrialConfig
    from trainables.workloads import deviations

    names = set(varied)
    with suppress(HyperparameterError, KeyError):  # the recipe may belong to a plugin
        names |= {*deviations(TrialConfig.from_dict(config))} & {*config["hyperparameters"]}
    return [f"{name}={value}" for name, value in _values(config).items() if name in names]


def _ago(moment: float) -> str:
    seconds = max(0, round(time.time() - moment))
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
