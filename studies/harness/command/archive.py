"""The commands `python -m studies pack` and `unpack`: results as one file."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import click

from precond.counts import counted
from precond.hyperparameters import HyperparameterError, nearest
from studies.harness.command.catalogue import OUT, artefacts, trial_keys
from studies.harness.command.merge import DRY_RUN, INTO, merge
from studies.harness.command.screen import environment, refuse
from studies.harness.design.ending import COMPLETE
from studies.harness.design.options import Options
from trainables.files import StoreError, temporary_folder

FILE = click.Path(dir_okay=False, path_type=Path)
SINCE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])


@click.command(
    "pack",
    help="Write the results of an output folder to a tar file with a manifest of hashes, which "
    "`unpack` reads. Reports and MLflow's database are not packed, because they can be rebuilt.",
    params=[
        click.Argument(["root"], type=OUT.type, metavar="FOLDER"),
        click.Argument(["file"], type=FILE, metavar="FILE.tar"),
        click.Option(
            ["--study"],
            metavar="NAME",
            help="Pack only the trials and searches of this study, and the plugins.",
        ),
        click.Option(
            ["--since"],
            type=SINCE,
            metavar="TIME",
            help="Pack only trials that ended later, in local time: 2026-01-31 or 2026-01-31T18:30.",
        ),
    ],
)
def _pack(root: Path, file: Path, study: str | None, since: datetime | None) -> int:
    from studies.harness.command import lock
    from studies.harness.transfer import archive

    if errors := _invalid(root, file, study):
        return refuse(errors)
    moment = since.timestamp() if since else None
    try:
        with lock.unused(root):
            keys = _keys(study, root) if study else None
            try:
                selected = archive.select(root, keys, study or "", moment)
            except StoreError as error:
                return refuse([str(error)])
            if not any(place.parts[0] != "plugins" for place in selected):
                return refuse([f"{root}: contains no results to pack"])
            number = archive.pack(root, selected, file)
    except (StoreError, OSError) as error:
        return environment(str(error))
    trials = sum(place.parts[0] == "trials" for place in selected)
    print(f"{file}: {counted(trials, 'trial')}, {counted(number, 'file')}")
    return COMPLETE


def _invalid(root: Path, file: Path, study: str | None) -> list[str]:
    """Return a line for each invalid argument of `pack`."""
    errors = []
    if not root.is_dir():
        errors.append(f"{root}: is not a folder; name an output folder")
    if file.exists():
        errors.append(f"{file}: exists; name a new file, or delete this one")
    elif not file.parent.is_dir():
        errors.append(f"{file}: its folder does not exist")
    if study is not None and study not in (known := artefacts()):
        errors.append(f'--study = "{study}": unknown.{nearest(study, known)}')
    return errors


def _keys(name: str, root: Path) -> Collection[str]:
    """Return the keys of the trials of a study's stored reports, and of the study itself.

    The study itself is included on each workload of the output folder, because a study that was
    stopped before its first report has none.
    """
    from studies.harness.evidence.status import trained_seeds

    study = artefacts()[name]
    plans = [*study.stored(root).plans]
    for workload in trained_seeds(root):
        with suppress(HyperparameterError):  # the study is invalid on this workload
            plans += study.plan(Options(out=root, workload=workload))
    return trial_keys(study, plans)


@click.command(
    "unpack",
    help="Check each file in a tar file of `pack`, and merge the results into an output folder, as "
    "`merge` does. Nothing is written if the file was truncated or altered.",
    params=[click.Argument(["file"], type=FILE, metavar="FILE.tar"), INTO, DRY_RUN],
)
def _unpack(file: Path, into: Path, dry_run: bool) -> int:
    from studies.harness.transfer import archive

    if not file.is_file():
        return refuse([f"{file}: is not a file; name a file that `pack` has written"])
    if into.exists() and not into.is_dir():
        return refuse([f"--into = {into}: must be a folder"])
    # The files are extracted beside the folder, because they need the space of its disk.
    beside = next(parent for parent in into.absolute().parents if parent.is_dir())
    try:
        with temporary_folder(beside, ".unpack-") as folder:
            archive.unpack(file, folder)
            return merge([folder], into, dry_run, lambda line: line.replace(str(folder), str(file)))
    except archive.ArchiveError as error:
        return refuse([str(error)])
    except OSError as error:
        return environment(str(error))


COMMANDS = (_pack, _unpack)
