"""The option `sync --to`: the trials of an output folder as files of another tracker."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precond.counts import counted
from precond.hyperparameters import nearest
from studies.harness.command.catalogue import OUT, artefacts, trial_keys
from studies.harness.command.naming import Names
from studies.harness.command.screen import environment, refuse
from studies.harness.design.ending import COMPLETE, SOME_FAILED
from studies.harness.export import formats
from trainables.files import StoreError

if TYPE_CHECKING:
    from studies.harness.export.runs import Run

TO = click.Option(
    ["--to"],
    type=(str, OUT.type),
    metavar="FORMAT FOLDER",
    help="Send nothing to MLflow. Instead, write all trials of OUT to FOLDER as runs of another "
    f"tracker. FORMAT is one of {', '.join(formats.names())}. A second call writes only the trials "
    "that are new or have changed.",
)


def export(root: Path, name: str, target: Path, tracking_uri: str | None) -> int:
    """Write the trials of an output folder in a format, and print a summary; return the exit code.

    Args:
        root: The output folder, which is only read.
        name: The name of the format.
        target: The folder of the export.
        tracking_uri: The value of `--tracking-uri`, which has no effect and is refused.
    """
    if errors := _errors(root, name, target, tracking_uri):
        return refuse(errors)
    from studies.harness.export import files
    from trainables.store import trial_folders

    if not any(trial_folders(root)):
        print(f"no results to export in {root}; run a study first, or name a folder with --out")
        return COMPLETE
    form, counts, problems = formats.load(name), Counter[str](), list[str]()
    try:
        counts.update(files.export(_runs(root, problems), name, form, target))
    except (StoreError, OSError) as error:
        return environment(f"--to {name}: {error}")
    except Exception as error:  # of the library
        first_line = str(error).partition("\n")[0]
        return environment(f"--to {name}: {form.LIBRARY}: {type(error).__name__}: {first_line}")
    for line in problems:
        print(line)
    parts = [f"{counts[word]} {word}" for word in ("written", "replaced", "already there")]
    print(f"{name}: {counted(counts.total(), 'trial')} in {target}: {', '.join(parts)}")
    if form.COMMAND and counts:
        print(f"Next: {form.COMMAND.format(folder=shlex.quote(str(target)))}")
    return SOME_FAILED if problems else COMPLETE


def _errors(root: Path, name: str, target: Path, tracking_uri: str | None) -> list[str]:
    """Return a line for each invalid value of the options."""
    if name not in (known := formats.names()):
        return [f'--to = "{name}": unknown format.{nearest(name, known)}']
    errors, form, option = [], formats.load(name), f"--to {name}"
    if tracking_uri is not None:
        errors.append(f"{option}: cannot be combined with --tracking-uri; give one of them")
    if target.exists() and not target.is_dir():
        errors.append(f"{option} {target}: must be a folder")
    place = target.resolve()
    if place == root.resolve() or place.is_relative_to(root.resolve() / "trials"):
        advice = "name another folder, such as"
        errors.append(f"{option} {target}: contains trials; {advice} {root / name}")
    if not form.available:
        advice = f'install it with pip install "precond[{form.EXTRA}]"'
        errors.append(f"{option}: requires {form.LIBRARY}; {advice}")
    return errors


def _runs(root: Path, problems: list[str]) -> Iterator[Run]:
    """Yield the trials that a worker has started; append a line for each damaged folder."""
    from studies.harness.evidence.status import IN_FLIGHT
    from studies.harness.export.runs import read
    from studies.harness.kinds.search.proposals import STOPPED, stopped_keys
    from trainables.store import trial_folders

    studies, name = _studies(root), _namer(root)
    stopped = {key[:16] for key in stopped_keys(root)}
    for folder in trial_folders(root):
        try:
            unfinished = STOPPED if folder.name in stopped else IN_FLIGHT
            run = read(folder, name(folder), studies.get(folder.name, ()), unfinished)
        except (StoreError, KeyError, TypeError, AttributeError) as error:
            problem = str(error) if isinstance(error, StoreError) else f"{folder} is damaged"
            problems.append(f"{folder.name}: not exported, because {problem}")
        else:
            if run:
                yield run


def _studies(root: Path) -> dict[str, list[str]]:
    """Return the studies and searches whose reports contain a trial, by the name of its folder."""
    studies: dict[str, list[str]] = {}
    for artefact in artefacts().values():
        # As in `sync`, a study that cannot be read does not affect the others.
        with suppress(Exception):
            for key in trial_keys(artefact, artefact.stored(root).plans):
                studies.setdefault(key[:16], []).append(artefact.name)
    return studies


def _namer(root: Path) -> Callable[[Path], str]:
    """Return a function from the folder of a trial to its configuration without the seed.

    It names the values that differ among the trials of the same workload.
    """
    from trainables.store import read_config, trial_folders

    configs: dict[str, dict[str, Any]] = {}
    for folder in trial_folders(root):
        with suppress(StoreError, KeyError):
            configs[folder.name] = read_config(folder)["config"]
    workloads = {config["workload"] for config in configs.values()}
    names = {
        workload: Names(c for c in configs.values() if c["workload"] == workload)
        for workload in workloads
    }

    def name(folder: Path) -> str:
        config = read_config(folder)["config"]
        return names[config["workload"]](config).removesuffix(f" seed {config['seed']}")

    return name
