"""Image files: listed by class, read and decoded."""

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

from trainables.data.base import DataError
from trainables.data.cache import Pairs

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TRIES = 3  # to read a file
SHOWN = 20  # damaged files that are named; the others are counted


@dataclass(frozen=True)
class Files:
    """The paths and labels of a split's images; indexing reads an image."""

    paths: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Any:
        return read_image(self.paths[position])

    def pairs(self) -> Pairs:
        """Yield every image as `[3, height, width]` uint8, with its label."""
        return (
            (_pixels(read_image(path)), label)
            for path, label in zip(self.paths, self.labels, strict=True)
        )


def class_names(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a split; the label of a class is its index."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )


def listed(folder: Path, classes: Sequence[str], below: str = "") -> Files:
    """Return a split's images, class by class and sorted by name; `below` is a folder within each class folder."""
    images = [
        (f"{folder / name / below}/{image}", label)
        for label, name in enumerate(classes)
        for image in sorted(os.listdir(folder / name / below))
        if image.lower().endswith(ENDINGS)
    ]
    return Files([path for path, _ in images], [label for _, label in images])


def read_image(path: str) -> Any:
    """Return an RGB image of PIL's; reading is repeated where a file server fails for a moment.

    Raises:
        DataError: The file cannot be read or decoded.
    """
    from PIL import Image

    content = _read(path)
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except Exception as error:  # PIL raises about a dozen types
        raise DataError(
            f"{path}: not a readable image ({len(content)} bytes). Restore or remove it"
        ) from error


def unreadable(paths: Iterable[str]) -> list[str]:
    """Read all images and return one line for each that cannot be decoded."""

    def problem(path: str) -> str | None:
        try:
            read_image(path)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as threads:  # decoding releases the interpreter's lock
        lines = [line for line in threads.map(problem, paths) if line]
    return (
        lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more files"]
    )


def _pixels(image: Any) -> Tensor:
    """Return an RGB image of PIL's as `[3, height, width]` uint8."""
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
