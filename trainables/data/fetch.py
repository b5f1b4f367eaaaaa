"""Files of a dataset: checked, fetched, and what to say when they are not there."""

from __future__ import annotations

import hashlib
import shlex
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainables.data import DataError

SHOWN = 20  # damaged files named; the rest are counted


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where a dataset comes from.

    Attributes:
        url: Of the archive.
        md5: As torchvision and other libraries list it.
        sha256: Likewise; None where nobody states it.
        megabytes: To download.
        folder: That it unpacks to.
    """

    url: str
    md5: str
    sha256: str | None
    megabytes: int
    folder: str


def fetch(archive: Archive, data_dir: Path) -> None:
    """Download and unpack a dataset; the archive stays beside it. One process does it, others wait.

    Raises:
        DataError: It cannot be had, or is not what it should be.
    """
    from filelock import FileLock
    from torchvision.datasets.utils import download_url

    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / archive.url.rpartition("/")[2]
    with FileLock(f"{path}.lock"):
        try:
            download_url(archive.url, data_dir, path.name, archive.md5)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{archive.url}: {error}: try again, or put the archive into {data_dir}") from error
        if archive.sha256 and (found := checksum(path, "sha256")) != archive.sha256:
            raise DataError(mismatch(path, archive.sha256, found))
        _unpack(path, data_dir)


def _unpack(path: Path, data_dir: Path) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            file.extractall(data_dir)
    else:
        with tarfile.open(path) as file:
            file.extractall(data_dir, filter="data")


def checksum(path: Path, method: str) -> str:
    """A file's digest in hexadecimal, by a method of `hashlib`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, method).hexdigest()


def mismatch(path: Path, expected: str, found: str) -> str:
    """The line about a file that is not what it should be. It is never deleted here."""
    got = f"(expected {expected[:8]}.., got {found[:8]}..)"
    return f"{path}: checksum mismatch {got}. Delete it and run {again('--download')}"


def missing(path: Path, name: str, archive: Archive) -> str:
    """The line about a dataset that is not there."""
    size = f"{name}, {archive.megabytes} MB to download"
    return f"{path}: not found ({size}). Run {again('--download')}, or name the folder that has it with --data-dir"


def again(flag: str) -> str:
    """This process's command with one more flag."""
    program, *arguments = sys.argv
    path = Path(program)
    command = ["-m", path.parent.name] if path.name == "__main__.py" else [program]
    return shlex.join(["python", *command, *arguments, *([] if flag in arguments else [flag])])


def unreadable(paths: Iterable[str]) -> list[str]:
    """A line for each image that cannot be decoded, after reading all of them."""
    from trainables.data.folder import read_image

    def problem(path: str) -> str | None:
        try:
            read_image(path)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as threads:  # decoding releases the interpreter
        lines = [line for line in threads.map(problem, paths) if line]
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more files"]
