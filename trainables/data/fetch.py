"""Download and unpack the archives of datasets, and describe missing and damaged files."""

from __future__ import annotations

import shlex
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from trainables.data.base import DataError
from trainables.files import checksum


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The archive of a dataset.

    Attributes:
        url: Address of the archive.
        md5: MD5 digest of the archive, as published by torchvision and other libraries.
        sha256: SHA-256 digest of the archive, or None if none is published.
        megabytes: Size of the download.
        folder: Name of the folder that the archive contains.
    """

    url: str
    md5: str
    sha256: str | None
    megabytes: int
    folder: str


def fetch(archive: Archive, data_dir: Path) -> None:
    """Download and unpack a dataset while holding a lock; keep the archive.

    Raises:
        DataError: The download failed, or a checksum differs.
    """
    from filelock import FileLock
    from torchvision.datasets.utils import download_url

    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / archive.url.rpartition("/")[2]
    with FileLock(f"{path}.lock"):
        try:
            download_url(archive.url, data_dir, path.name, archive.md5)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{archive.url}: {error}: try again, or put the archive into {data_dir}"
            ) from error
        if archive.sha256 and (actual := checksum(path)) != archive.sha256:
            raise DataError(mismatch(path, archive.sha256, actual))
        _unpack(path, data_dir)


def _unpack(path: Path, data_dir: Path) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            file.extractall(data_dir)
    else:
        with tarfile.open(path) as file:
            file.extractall(data_dir, filter="data")


def mismatch(path: Path, expected: str, actual: str) -> str:
    """Return the message about a file with an unexpected checksum."""
    digests = f"(expected {expected[:8]}.., got {actual[:8]}..)"
    return f"{path}: checksum mismatch {digests}. Delete it and run {command_with('--download')}"


def missing(path: Path, name: str, archive: Archive) -> str:
    """Return the message about a missing dataset."""
    size = f"{name}, {archive.megabytes} MB to download"
    folder = "give the folder that contains the dataset with --data-dir"
    advice = f"Run {command_with('--download')}, or {folder}"
    return f"{path}: not found ({size}). {advice}"


def command_with(flag: str) -> str:
    """Return the command line of this process, with a flag appended if it is not included."""
    program, *arguments = sys.argv
    path = Path(program)
    command = ["-m", path.parent.name] if path.name == "__main__.py" else [program]
    return shlex.join(["python", *command, *arguments, *([] if flag in arguments else [flag])])
