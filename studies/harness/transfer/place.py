"""Write the results of a merge so that a kill at any moment loses nothing.

    OUT/.merge/copied/      the folder that is being copied
    OUT/.merge/replaced/    the folder that a copy replaces, until the copy has its name

A copy is complete, checked and flushed to the disk before it gets its name. Sources are only read.
The same command continues after a kill.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from studies.harness.transfer.plan import KINDS, Step
from trainables.files import remove, sync, sync_directory, write_atomically

ASIDE = ".merge"
UNUSED = ("*.tmp", "quarantine")  # half-written and damaged checkpoints


def place(step: Step, root: Path) -> None:
    """Write a file or folder of the plan into the output folder.

    Raises:
        StoreError: A process has changed the source during the copy.
        OSError: The output folder cannot be written.
    """
    target, decision = root / step.place, step.decision
    _make(target.parent)
    if decision.content is not None:
        write_atomically(target, decision.content)
    elif decision.source.is_file():
        write_atomically(target, decision.source.read_bytes())
    else:
        copied = root / ASIDE / "copied" / step.place
        if copied.exists():
            remove(copied)
        _copy(decision.source, copied)
        KINDS[step.kind].decide([copied])
        _exchange(copied, target, root / ASIDE / "replaced" / step.place)


def recover(root: Path) -> None:
    """Remove the files of a merge that was killed, after its replaced folder has its name again."""
    for replaced in (root / ASIDE / "replaced").glob("*/*"):
        target = root / replaced.relative_to(root / ASIDE / "replaced")
        if not target.exists():
            replaced.rename(target)
            sync_directory(target.parent)
    clear(root)


def clear(root: Path) -> None:
    """Remove the folder of copies that are not complete."""
    if (root / ASIDE).exists():
        remove(root / ASIDE)


def _exchange(copied: Path, target: Path, replaced: Path) -> None:
    """Give a copied folder its name; a folder with this name is removed afterwards."""
    if target.exists():
        _make(replaced.parent)
        target.rename(replaced)
        sync_directory(replaced.parent)
    copied.rename(target)
    sync_directory(target.parent)
    if replaced.exists():
        remove(replaced)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder and flush all files and folders to the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(
        source, target, ignore=shutil.ignore_patterns(*UNUSED), copy_function=_copy_file
    )
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        sync_directory(folder)


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb") as reader, open(target, "wb") as writer:
        shutil.copyfileobj(reader, writer)
        sync(writer)


def _make(folder: Path) -> None:
    """Create a folder, and flush the names of the created folders to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_directory(path.parent)
