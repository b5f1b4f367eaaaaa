"""A cache of small images: memory-mapped arrays of bytes that all processes share.

    <place>/.precond-<name>-<key>/     meta.json, train.bin and test.bin (uint8, [n, 3, size, size])

The key is a digest of the files' names, sizes and modification times, so changed data get a new
cache. A process writes the cache to a temporary folder and then renames the folder, so that a
killed process leaves no partial cache. While a process writes, other processes wait for its lock.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.config import digest
from trainables.data.base import DataError, Images
from trainables.files import sync, sync_directory, write_atomically

LAYOUT = 1  # version of the cache's layout, a part of its name
Pairs = Iterator[tuple[Tensor, int]]  # an image [3, size, size] uint8 and its label
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class MixedSizes(Exception):
    """The images are not all squares of the same size, so they do not fit into one array."""


def arrays(
    places: Sequence[Path], name: str, splits: Callable[[], Mapping[str, Pairs]]
) -> Images | None:
    """Return the cached images as memory-mapped tensors; the first call creates the cache.

    Args:
        places: Folders for the cache. An existing cache in any of these folders is used; a new
            cache is written to the first writable folder.
        name: Name of the cache, which contains the dataset and the digest of its files.
        splits: Returns the images of `train` and `test`; called only to create the cache.

    Returns:
        Tensors on the CPU, or None for images of mixed sizes. The cache records this, too.

    Raises:
        DataError: No folder is writable, or an image cannot be read.
    """
    name = f".precond-{name}-{LAYOUT}"
    for place in places:
        if (meta := _read(place / name)) is not None:
            return _map(place / name, meta)
    for place in places:
        if (lock := _lock(place, name)) is None:
            continue
        with lock:
            # Another process may have created the cache while this one waited for the lock.
            if _read(place / name) is None:
                _create(place / name, splits())
            return _map(place / name, _read(place / name) or {})
    raise DataError(
        f"{' and '.join(map(str, places))} cannot be written: choose another folder with --data-dir"
    )


def stamp(folder: Path, paths: Sequence[str]) -> str:
    """Return a digest of the names, sizes and modification times of a folder's files."""
    stats = ((path, os.stat(path)) for path in paths)
    return digest(
        [(path.removeprefix(f"{folder}/"), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    )[:12]


def _lock(place: Path, name: str) -> AbstractContextManager[Any] | None:
    """Acquire a cache's lock; return None if the folder is not writable.

    The lock is released at the end of its `with` block or of the process.
    """
    from filelock import FileLock

    try:
        place.mkdir(parents=True, exist_ok=True)
        return FileLock(place / f"{name}.lock").acquire()
    except OSError as error:
        if error.errno in READ_ONLY:
            return None
        raise


def _read(folder: Path) -> dict[str, Any] | None:
    """Return the contents of `meta.json`, or None if the cache is missing or incomplete."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        complete = all(os.stat(folder / f).st_size == size for f, size in meta["files"].items())
    except (FileNotFoundError, ValueError):
        return None
    return meta if complete else None


def _create(folder: Path, splits: Mapping[str, Pairs]) -> None:
    """Write a cache to a temporary folder, then rename the folder."""
    temporary = folder.with_name(folder.name + ".tmp")
    for leftover in (temporary, folder):  # from a killed process, or incomplete
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        try:
            meta = _write(temporary, splits)
        except MixedSizes:
            meta = {"files": {}}
            for part in temporary.iterdir():
                part.unlink()
        write_atomically(temporary / "meta.json", json.dumps(meta).encode())
        temporary.rename(folder)
        sync_directory(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{folder}: {error.strerror}: free disk space, or choose another folder with --data-dir"
        ) from error


def _write(folder: Path, splits: Mapping[str, Pairs]) -> dict[str, Any]:
    meta: dict[str, Any] = {"files": {}, "labels": {}}
    for split, pairs in splits.items():
        labels: list[int] = []
        with open(folder / f"{split}.bin", "wb") as file:
            for image, label in pairs:
                meta.setdefault("shape", list(image.shape))
                if list(image.shape) != meta["shape"] or image.shape[1] != image.shape[2]:
                    raise MixedSizes
                file.write(image.numpy().tobytes())
                labels.append(label)
            sync(file)
        meta["labels"][split] = labels
        meta["files"][f"{split}.bin"] = len(labels) * math.prod(meta["shape"])
    mean, deviation = channel_statistics(
        _mapped(folder / "train.bin", meta["shape"], len(meta["labels"]["train"]))
    )
    return {**meta, "mean": mean, "deviation": deviation}


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel, for pixels scaled to 0..1.

    The sums are computed from counts of the 256 pixel values, so that the result does not depend on
    the order of the images.

    Args:
        images: `[n, c, h, w]` uint8.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in images.split(1024):
        for channel, pixels in enumerate(chunk.unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True).double()
    mean = share @ levels
    deviation = (share * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.tolist(), deviation.tolist()


def _map(folder: Path, meta: Mapping[str, Any]) -> Images | None:
    if not meta["files"]:
        return None
    labels = {split: torch.tensor(values) for split, values in meta["labels"].items()}
    train, test = (
        _mapped(folder / f"{s}.bin", meta["shape"], len(labels[s])) for s in ("train", "test")
    )
    channels, size = (meta["mean"], meta["deviation"]), meta["shape"][-1]
    return Images(train, labels["train"], test, labels["test"], *channels, size, square=True)


def _mapped(path: Path, shape: Sequence[int], count: int) -> Tensor:
    """Return a file's bytes as a memory-mapped tensor `[count, *shape]` uint8."""
    size = count * math.prod(shape)
    flat = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    return flat.view(count, *shape)
