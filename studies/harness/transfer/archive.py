"""A file with the results of an output folder: an uncompressed tar file with a manifest.

The first member, `manifest.json`, contains the version of the format, the generation of the output
folder, and the name, the size and the SHA-256 of each other member. Equal results give equal files:
the members are sorted, and have no times, users and permissions of the machine.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from studies.harness.transfer.place import UNUSED
from studies.harness.transfer.plan import KINDS, places
from trainables.files import checksum, sync, sync_directory
from trainables.store import lock_generation, read_status

VERSION = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 2**28  # bytes; a manifest has about 200 bytes for each file
FOLDERS = {kind.pattern.partition("/")[0] for kind in KINDS.values()}


class ArchiveError(Exception):
    """A file is no archive of this project, or it was truncated or altered; one line."""


def select(root: Path, keys: Collection[str] | None, study: str, since: float | None) -> list[Path]:
    """Return the results to pack, as paths relative to the output folder. All are checked.

    Args:
        root: The output folder.
        keys: The keys of the trials of a study; None for all trials.
        study: The name of the study; only its searches and the plugins are added to its trials.
        since: Seconds since 1970. Only trials that ended later are selected; None for all trials.

    Raises:
        StoreError: A result is damaged.
    """
    names = None if keys is None else {key[:16] for key in keys}
    selected = []
    for kind in KINDS:
        for place in places(root, kind):
            if kind == "trials":
                chosen = (names is None or place.name in names) and _newer(root / place, since)
            else:
                chosen = not study or kind == "plugins" or place.parts[:2] == ("searches", study)
            if chosen:
                KINDS[kind].decide([root / place])
                selected.append(place)
    return selected


def _newer(folder: Path, since: float | None) -> bool:
    return since is None or (read_status(folder) or {}).get("time", 0) > since


def pack(root: Path, selected: Sequence[Path], file: Path) -> int:
    """Write the selected results to a file, and return the number of its members.

    Raises:
        OSError: A file cannot be read or written.
    """
    files = sorted(
        str(path.relative_to(root)) for place in selected for path in _files(root / place)
    )
    entries = [
        {"name": name, "size": (root / name).stat().st_size, "sha256": checksum(root / name)}
        for name in files
    ]
    generation = lock_generation(root) or 0
    manifest = {"version": VERSION, "generation": generation, "files": entries}
    content = json.dumps(manifest, indent=1).encode()
    temporary = file.with_name(file.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w") as archive:
                archive.addfile(_member(MANIFEST, len(content)), io.BytesIO(content))
                for entry in entries:
                    with open(root / entry["name"], "rb") as reader:
                        archive.addfile(_member(entry["name"], entry["size"]), reader)
            sync(stream)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(file.parent)
    return len(files)


def _files(path: Path) -> list[Path]:
    """Return the files of a result without those that a merge does not copy."""
    if path.is_file():
        return [path]
    inner = [inner for inner in path.rglob("*") if inner.is_file()]
    return [
        file
        for file in inner
        if not any(
            PurePosixPath(part).match(pattern)
            for part in file.relative_to(path).parts
            for pattern in UNUSED
        )
    ]


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # its time, users and permissions are constants
    member.size = size
    return member


def unpack(file: Path, folder: Path) -> None:
    """Extract an archive into a new folder after a check of its members.

    The folder then has the form of an output folder. If an error is raised, the folder contains a
    part of the files, and must not be used.

    Raises:
        ArchiveError: The file was truncated or altered, or was written by a newer version.
        OSError: The folder cannot be written.
    """
    try:
        with tarfile.open(file, mode="r:") as archive:
            _extract(archive, folder)
            last = archive.getmembers()[-1]
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ArchiveError(f"{file}: not a file of `pack`, or altered ({reason})") from error
    blocks = -(-last.size // tarfile.BLOCKSIZE) + 2  # an archive ends with two empty blocks
    end = last.offset_data + blocks * tarfile.BLOCKSIZE
    if file.stat().st_size != -(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE:
        raise ArchiveError(f"{file}: truncated, or extended; copy it again")


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    manifest = _manifest(archive)
    entries = {str(entry["name"]): entry for entry in manifest["files"]}
    missing = {*entries}
    while member := archive.next():
        if member.name not in missing or not member.isreg() or not _allowed(member.name):
            raise ValueError(f"unexpected member {member.name!r}")
        missing.remove(member.name)
        entry = entries[member.name]
        if member.size != entry["size"]:
            raise ValueError(f"{member.name} has another size than in the manifest")
        archive.extract(member, folder, filter="data")
        if checksum(folder / member.name) != entry["sha256"]:
            raise ValueError(f"{member.name} has another SHA-256 than in the manifest")
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    # A merge reads the generation, as from the lock of any other output folder.
    (folder / ".lock").write_text(json.dumps({"generation": int(manifest["generation"])}))


def _manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    member = archive.next()
    if member is None or member.name != MANIFEST or not 0 < member.size <= LARGEST_MANIFEST:
        raise ValueError("the manifest is missing")
    reader = archive.extractfile(member)
    manifest = json.loads(reader.read() if reader else b"")
    if manifest["version"] > VERSION:
        versions = f"version {manifest['version']}, but this version reads up to {VERSION}"
        raise ValueError(f"the format has {versions}; update precond")
    return manifest


def _allowed(name: str) -> bool:
    """Return True if a name is a relative path of a result, without `..`."""
    parts = name.split("/")
    safe = all(re.fullmatch(r"[^\\\x00-\x1f]+", part) and part not in (".", "..") for part in parts)
    return safe and parts[0] in FOLDERS
