"""The commands of `python -m studies` over trial folders: status, show, explain and clean."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from precond.counts import counted
from studies.harness.command.catalogue import OUT
from studies.harness.command.naming import Names, find
from studies.harness.command.screen import environment, refuse, terminal
from studies.harness.design.ending import COMPLETE

INTERRUPTED = "interrupted"


@click.command(
    "status",
    help="Count trials by status, and list those that have begun but have not ended: in flight, or "
    "interrupted if no driver trains them. 'not run' means that the folder exists, but that no "
    "worker has started the trial. A study may run at the same time.",
    params=[OUT],
)
def _status(root: Path) -> int:
    from studies.harness.command import lock
    from studies.harness.evidence.status import NOT_RUN
    from studies.harness.kinds.search.proposals import STOPPED, stopped_keys
    from trainables.store import lock_generation, read_config, read_status, trial_folders

    console, counts, unfinished, configs = terminal(), Counter[str](), {}, {}
    holder, stopped = lock.holder(root), {key[:16] for key in stopped_keys(root)}
    generation = lock_generation(root) if holder else None
    for folder in trial_folders(root):
        configs[folder] = read_config(folder)["config"]
        status = {"status": STOPPED} if folder.name in stopped else read_status(folder)
        word = status["status"] if status else _progress(folder, generation)
        counts[word] += 1
        if status is None and word != NOT_RUN:
            unfinished[folder] = word
    names = Names(configs.values())
    for folder, word in unfinished.items():
        line = (
            f"{folder.name}  {names(configs[folder])}: {word}, {_epochs(folder, configs[folder])}"
        )
        console.print(line, highlight=False, soft_wrap=True)
    summary = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    nothing = f"no trials in {root}; run a study first, or name a folder with --out"
    console.print(f"trials: {summary}" if counts else nothing, highlight=False)
    if holder:
        console.print(f"driver: {holder}", highlight=False, markup=False)
    elif INTERRUPTED in counts or NOT_RUN in counts:
        console.print("No driver is running; the command of the study resumes the trials.")
    return COMPLETE


def _progress(folder: Path, generation: int | None) -> str:
    """Return the status of a trial that has not ended.

    Args:
        folder: The folder of the trial.
        generation: The generation of the driver that has locked the output folder, or None. Workers
            of earlier drivers have ended. A worker without a driver may still train.
    """
    from studies.harness.evidence.status import IN_FLIGHT, NOT_RUN
    from trainables.files import read_lines

    attempts = read_lines(folder / "attempts.jsonl")
    if not attempts:
        return NOT_RUN
    current = attempts[-1].get("generation") in (generation, None)
    return IN_FLIGHT if current else INTERRUPTED


def _epochs(folder: Path, config: Mapping[str, Any]) -> str:
    """Return how many epochs are committed, and when the last worker began."""
    from trainables.files import read_lines

    start = _ago(read_lines(folder / "attempts.jsonl")[-1]["time"])
    epochs = len(read_lines(folder / "epochs.jsonl"))
    return f"{epochs} of {counted(config['epochs'], 'epoch')} committed, started {start}"


@click.command(
    "show",
    help="Print a trial's configuration, status and last epoch. KEY is the name of its folder in "
    "OUT/trials, or its first digits.",
    params=[click.Argument(["key"]), OUT],
)
def _show(key: str, root: Path) -> int:
    from trainables.files import read_lines
    from trainables.store import read_config, read_status

    folders, errors = find(root, key)
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
    "OUT/trials, or its first digits.",
    params=[click.Argument(["first_key"]), click.Argument(["second_key"]), OUT],
)
def _explain(first_key: str, second_key: str, root: Path) -> int:
    from trainables.store import read_config

    folders, errors = find(root, first_key, second_key)
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
    "half-written. KEY is the name of a trial's folder in OUT/trials, or its first digits.",
    params=[
        click.Argument(["keys"], nargs=-1, metavar="[KEY]..."),
        OUT,
        click.Option(["--dry-run"], is_flag=True, help="Print paths and sizes; delete nothing."),
    ],
)
def _clean(keys: tuple[str, ...], root: Path, dry_run: bool) -> int:
    from studies.harness.command import lock
    from trainables.store import StoreError, trial_folders

    paths, errors = find(root, *keys)
    if errors:
        return refuse(errors)
    paths += [
        path
        for folder in trial_folders(root)
        for path in (*folder.glob("quarantine"), *folder.glob("*.tmp"))
    ]
    paths = [*dict.fromkeys(paths)]
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


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def _ago(moment: float) -> str:
    seconds = max(0, round(time.time() - moment))
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"


COMMANDS = (_status, _show, _explain, _clean)
