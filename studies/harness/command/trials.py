"""The commands of `python -m studies` over trial folders: status, show, explain and clean."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from studies.harness.command.catalogue import OUT
from studies.harness.command.screen import environment, refuse, terminal
from studies.harness.design.ending import COMPLETE

KEY_DIGITS = 6  # required of a key on the command line


@click.command(
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


@click.command(
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


@click.command(
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


@click.command(
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


COMMANDS = (_status, _show, _explain, _clean)
