"""The commands of `python -m studies`, over all studies and all trial folders."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.table import Table

import studies
from precond.hyperparameters import nearest
from studies.harness.command.cli import EXIT_CODES, SETTINGS
from studies.harness.command.options import FLAGS, parse
from studies.harness.command.run import COMPLETE, ENVIRONMENT, SOME_FAILED, refuse, run
from studies.harness.command.screen import terminal
from studies.harness.evidence import ledger
from studies.harness.kinds.cost.cost import CostStudy
from studies.harness.kinds.probe.probe import Probe
from studies.harness.kinds.search import part as search_part
from studies.harness.kinds.search import run as search_run
from studies.harness.kinds.search.proposals import STOPPED, stopped_keys
from studies.harness.kinds.search.search import Search
from studies.harness.kinds.study.study import Study
from trainables.files import read_lines
from trainables.store import StoreError, read_config, read_status, trial_folders

GROUP = click.Group("studies", context_settings=SETTINGS, help="Studies of preconditioned optimizers.")
OUT = click.Option(
    ["--out"], type=click.Path(path_type=Path), help="Output folder.  [default: $PRECOND_OUT or outputs]"
)
DRY_RUN = click.Option(["--dry-run"], is_flag=True, help="Say what would go, and how large it is.")
KEY_DIGITS = 6  # fewer digits of a key are not looked up


def all_studies() -> dict[str, Study]:
    """Every study of trials by name: the modules that have a `STUDY`."""
    return {study.name: study for study in _literals("STUDY")}


def cost_studies() -> dict[str, CostStudy]:
    """Every study of costs by name: the modules that have a `COST`. They are run by their own file."""
    return {study.name: study for study in _literals("COST")}


def probes() -> dict[str, Probe]:
    """Every probe by name: the modules that have a `PROBE`. They are run by their own file."""
    return {probe.name: probe for probe in _literals("PROBE")}


def searches() -> dict[str, Search]:
    """Every search by name: the modules that have a `SEARCH`."""
    return {search.name: search for search in _literals("SEARCH")}


def _literals(name: str) -> Iterator[Any]:
    """What the package's study files call so."""
    for module in pkgutil.iter_modules(studies.__path__):
        if not module.ispkg and not module.name.startswith("_"):
            found = getattr(importlib.import_module(f"studies.{module.name}"), name, None)
            if found is not None:
                yield found


def _command(name: str, help: str, *params: click.Parameter) -> Any:
    """Register a function as a command; what it returns is the exit code."""

    def register(function: Any) -> Any:
        GROUP.add_command(click.Command(name, SETTINGS, function, [*params], help=help))
        return function

    return register


def markdown() -> str:
    """Every study and the artefact that it reproduces, for the README."""
    rows = [("study", "what it is", "artefact", "runs on (and, in the paper, on)"), ("---",) * 4]
    for one in (kind for kinds in (all_studies(), cost_studies(), probes(), searches()) for kind in kinds.values()):
        paper = ", ".join(getattr(one, "published", ()))
        workloads = f"{one.workload} ({paper})" if paper else one.workload
        rows.append((f"`{one.name}`", one.title, one.citation, workloads))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@_command(
    "list",
    "Every study, the artefact it reproduces, and its state here.",
    OUT,
    click.Option(["--markdown", "as_markdown"], is_flag=True, help="The README's table."),
)
def _list(out: Path | None, as_markdown: bool) -> int:
    if as_markdown:
        print(markdown())
        return COMPLETE
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("study", no_wrap=True)
    for header in ("artefact", "workload", "done"):
        table.add_column(header)
    for study in all_studies().values():
        trials = study.trials()
        done = len(trials) - len(ledger.missing(trials, out or ledger.default_root()))
        table.add_row(study.name, study.citation, study.workload, f"{done}/{len(trials)}")
    for study in cost_studies().values():
        measured = len(list((out or ledger.default_root()).glob("cost/*/*-*.json")))
        table.add_row(study.name, study.citation, study.workload, str(measured))
    for probe in probes().values():
        trials = probe.trials()
        done = len(probe.found(trials, out or ledger.default_root()))
        table.add_row(probe.name, probe.citation, probe.workload, f"{done}/{len(trials)}")
    for search in searches().values():
        table.add_row(search.name, search.citation, search.workload, search_part.state(search, out))
    terminal().print(table)
    return COMPLETE


def _run(names: tuple[str, ...], **raw: Any) -> int:
    grids, tuned = all_studies(), searches()
    known = [*grids, *tuned]
    options, wrong = parse(raw)
    wrong = [f'study "{name}": unknown.{nearest(name, known)}' for name in names if name not in known] + wrong
    wrong += [line for name in names if name in tuned for line in search_part.checked(tuned[name], options)[1]]
    chosen = [grids[name] for name in names if name in grids]
    code = run(chosen, options, wrong) if chosen or wrong else COMPLETE
    for name in (name for name in names if name in tuned):  # each has proposals, and so a driver, of its own
        if code in (COMPLETE, SOME_FAILED):
            code = max(code, search_run.run(tuned[name], options))
    return code


GROUP.add_command(
    click.Command(
        "run",
        SETTINGS,
        _run,
        [click.Argument(["names"], nargs=-1, required=True, metavar="STUDY..."), *FLAGS],
        help="Run several studies with one driver; a trial that two of them need is trained once.",
        epilog=EXIT_CODES,
    )
)


@_command("status", "How many trials of the output folder are where, and what is in flight; also while one runs.", OUT)
def _status(out: Path | None) -> int:
    root = out or ledger.default_root()
    console, counts = terminal(), Counter[str]()
    given_up = {key[:16] for key in stopped_keys(root)}
    for folder in trial_folders(root):
        status = {"status": STOPPED} if folder.name in given_up else read_status(folder)
        counts[status["status"] if status else ledger.IN_FLIGHT] += 1
        if status is None:
            config = read_config(folder)["config"]
            lines, attempts = read_lines(folder / "epochs.jsonl"), read_lines(folder / "attempts.jsonl")
            since = f", begun {_ago(attempts[-1]['time'])}" if attempts else ", not begun"
            done = f"{len(lines)}/{config['epochs']} epochs committed{since}"
            console.print(f"{folder.name}  {config['optimizer']} s{config['seed']}: {done}", highlight=False)
    console.print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or f"no trials in {root}")
    return COMPLETE


@_command("show", "A trial's configuration, status and last epoch.", click.Argument(["key"]), OUT)
def _show(key: str, out: Path | None) -> int:
    folder, wrong = _find(key, out)
    if folder is None:
        return refuse([wrong])
    lines = read_lines(folder / "epochs.jsonl")
    document = {**read_config(folder), "status": read_status(folder), "epochs committed": len(lines)}
    print(json.dumps({**document, "last epoch": lines[-1] if lines else None, "folder": str(folder)}, indent=2))
    return COMPLETE


@_command("explain", "Which fields make two trials different.", click.Argument(["one"]), click.Argument(["other"]), OUT)
def _explain(one: str, other: str, out: Path | None) -> int:
    (first, wrong), (second, also_wrong) = _find(one, out), _find(other, out)
    if first is None or second is None:
        return refuse([line for line in (wrong, also_wrong) if line])
    mine, theirs = (_flat(read_config(folder)["config"]) for folder in (first, second))
    absent = "(absent)"
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        if mine.get(name, absent) != theirs.get(name, absent):
            print(f"{name}: {mine.get(name, absent)} | {theirs.get(name, absent)}")
    if mine == theirs:
        print("the same trial")
    return COMPLETE


@_command(
    "sync",
    "Send to MLflow what it still lacks of every study.",
    OUT,
    click.Option(["--tracking-uri"], metavar="URI", help="[default: OUT/mlflow.db]"),
)
def _sync(out: Path | None, tracking_uri: str | None) -> int:
    from studies.harness.tracking import resync

    try:
        kinds = all_studies(), probes(), searches()
        for name, sent in resync.everything(*kinds, out or ledger.default_root(), tracking_uri):
            print(f"{name}: {sent}")
    except Exception as error:
        print(
            f"error: {type(error).__name__}: {str(error).partition(chr(10))[0]}; nothing is lost, try again",
            file=sys.stderr,
        )
        return ENVIRONMENT
    return COMPLETE


@_command(
    "check-cluster",
    "What is misspelt, unsafe or still an example in a cluster's file, before `ray up`.",
    click.Argument(["file"], type=click.Path(path_type=Path)),
)
def _check_cluster(file: Path) -> int:
    from studies.harness.cluster import check as cluster_check

    if wrong := cluster_check.check(file):
        return refuse(wrong)
    print(f"{file}: nothing found; ray up {file}")
    return COMPLETE


@_command(
    "ui",
    "Links that compare the studies' runs, then the MLflow UI on this machine's own address.",
    OUT,
    click.Option(["--port"], type=click.IntRange(1, 65535), default=5000, show_default=True),
    click.Option(["--links-only"], is_flag=True, help="Print the links and stop."),
)
def _ui(out: Path | None, port: int, links_only: bool) -> int:
    from studies.harness.tracking import ui

    root = out or ledger.default_root()
    if not (root / "mlflow.db").exists():
        return refuse([f"{root}: no runs there yet; run a study first, or name its folder with --out"])
    for what, address in ui.links(ui.shown(root), f"http://127.0.0.1:{port}"):
        print(f"{what}\n  {address}")
    return COMPLETE if links_only else ui.serve(root, port)


@_command(
    "clean",
    "Remove what nothing reads (quarantined and half-written checkpoints), and the trials named by KEY.",
    click.Argument(["keys"], nargs=-1, metavar="[KEY]..."),
    OUT,
    DRY_RUN,
)
def _clean(keys: tuple[str, ...], out: Path | None, dry_run: bool) -> int:
    from studies.harness.command import lock

    root = out or ledger.default_root()
    named = [_find(key, out) for key in keys]
    if wrong := [line for _, line in named if line]:
        return refuse(wrong)
    going = [folder for folder, _ in named if folder]
    going += [path for folder in trial_folders(root) for path in (*folder.glob("quarantine"), *folder.glob("*.tmp"))]
    for path in going:
        size = sum(inner.stat().st_size for inner in (path, *path.rglob("*")) if inner.is_file())
        print(f"{size / 2**20:8.1f} MB  {path}")
    if dry_run or not going:
        print("nothing was removed (--dry-run)" if going else "nothing to clean")
        return COMPLETE
    try:
        with lock.exclusive(root):  # a running driver may still need them
            for path in going:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except StoreError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return ENVIRONMENT
    return COMPLETE


def _find(key: str, out: Path | None) -> tuple[Path | None, str]:
    """The folder of the one trial whose key starts so, or what is wrong."""
    root = out or ledger.default_root()
    found = [folder for folder in trial_folders(root) if folder.name.startswith(key[:16])]
    if len(key) < KEY_DIGITS or len(found) != 1:
        return None, f"{key}: {len(found)} trials in {root} start so; give at least {KEY_DIGITS} digits of one key"
    return found[0], ""


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _ago(moment: float) -> str:
    seconds = max(0, round(time.time() - moment))
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
