"""List the image files of a split by class, and read and decode them."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precond.counts import counted
from trainables.data.base import DataError
from trainables.data.cache import Pairs

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TRIES = 3  # attempts to read a file
LISTED = 20  # largest number of damaged files that a message names


@dataclass(frozen=True)
class Files:
    """The paths and labels of a split's images; indexing reads one image."""

    paths: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Any:
        return read_image(self.paths[position])

    def pairs(self) -> Pairs:
        """Yield every image as `[3, height, width]` uint8, with its label."""
        files = zip(self.paths, self.labels, strict=True)
        return ((_pixels(read_image(path)), label) for path, label in files)


def class_names(folder: Path) -> list[str]:
    """Return the sorted names of a split's class folders; the index of a name is its label."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )


def list_images(folder: Path, classes: Sequence[str], subfolder: str = "") -> Files:
    """Return a split's images, class by class, sorted by name within a class.

    Args:
        folder: The folder of the split.
        classes: Names of the class folders, in the order of the labels.
        subfolder: The folder within each class folder that contains the images.
    """
    images = [
        (f"{folder / name / subfolder}/{image}", label)
        for label, name in enumerate(classes)
        for image in sorted(os.listdir(folder / name / subfolder))
        if image.lower().endswith(ENDINGS)
    ]
    return Files([path for path, _ in images], [label for _, label in images])


def read_image(path: str) -> Any:
    """Return an RGB PIL image; reading is repeated, because a file server can fail temporarily.

    Raises:
        DataError: The file cannot be read or decoded.
    """
    from PIL import Image

    content = _read(path)
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except Exception as error:  # PIL raises about a dozen types of exceptions
        raise DataError(
            f"{path}: not a readable image ({counted(len(content), 'byte')}). Restore or remove it"
        ) from error


def unreadable(paths: Iterable[str]) -> list[str]:
    """Read all images; return a line for each unreadable image, at most `LISTED`, then a count."""

    def check(path: str) -> str | None:
        try:
            read_image(path)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as threads:  # decoding releases the interpreter's lock
        lines = [line for line in threads.map(check, paths) if line]
    if len(lines) > LISTED:
        return [*lines[:LISTED], f"and {len(lines) - LISTED} more files"]
    return lines


def _pixels(image: Any) -> Tensor:
    """Return an RGB PIL image as `[3, height, width]` uint8."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1)


def _read(path: str) -> bytes:
    for attempt in range(1, TRIES + 1):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            if attempt == TRIES:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            time.sleep(0.1 * attempt)
    raise AssertionError
