"""Write runs into the folder of an export, each once, and each complete or not at all.

    FOLDER/<run>/.export.json    key, name and digest of the run
    FOLDER/.export-<random>/     the run that is being written

A run whose digest has not changed is not written again. A run that has changed keeps its folder and
its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from studies.harness.export.format import Format
from studies.harness.export.runs import Run
from trainables.files import StoreError, parse, remove, temporary_folder

MARK = ".export.json"
TEMPORARY = ".export-"
VERSION = 1  # a higher number writes all runs again
Outcome = Literal["written", "replaced", "already there"]


@dataclass(frozen=True)
class Known:
    """A run of an earlier export.

    Attributes:
        folder: The folder of the run.
        name: The name of its configuration.
        digest: The digest of the run, with the version.
    """

    folder: Path
    name: str
    digest: str


def export(runs: Iterable[Run], name: str, form: Format, target: Path) -> Iterator[Outcome]:
    """Write the runs that are new or have changed; yield what was done with each.

    Args:
        runs: The runs.
        name: The name of the format.
        form: The format.
        target: The folder of the export; it is created if it does not exist.

    Raises:
        StoreError: A folder has the name of a run, but does not contain it.
        OSError: The folder cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target, TEMPORARY) as temporary, form.opened():
        known = _known(target, name)
        for run in runs:
            digest = f"{VERSION} {run.digest}"
            old = known.get(run.key)
            if old and old.digest == digest:
                yield "already there"
                continue
            place = old.folder if old else target / form.place(run)
            if place.exists() and not old:
                advice = "move it away, or name another folder"
                raise StoreError(f"{place} exists, and is not an export of the trial: {advice}")
            new = temporary / "new"
            form.write(replace(run, name=old.name) if old else run, new)
            mark = {"format": name, "key": run.key, "digest": digest}
            mark["name"] = old.name if old else run.name
            (new / MARK).write_text(json.dumps(mark))
            _exchange(new, place, temporary / "replaced")
            yield "replaced" if old else "written"


def _known(target: Path, name: str) -> dict[str, Known]:
    """Return the runs of earlier exports with this format by key."""
    known = {}
    for path in [*target.glob(f"*/{MARK}"), *target.glob(f"*/*/{MARK}")]:
        mark = parse(path.read_bytes(), path)
        if mark["format"] == name:
            known[mark["key"]] = Known(path.parent, mark["name"], mark["digest"])
    return known


def _exchange(new: Path, place: Path, replaced: Path) -> None:
    """Give a folder its name; an earlier folder with this name is removed afterwards."""
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(replaced)
    new.rename(place)
    if replaced.exists():
        remove(replaced)
