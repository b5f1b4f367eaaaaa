"""Little image folders of random pixels for the tests of the data."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

CLASSES = ("bird", "cat", "dog")


def paint(path: Path, size: tuple[int, int], seed: int) -> None:
    """A PNG of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(
        256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed)
    )
    Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)


def make_folder(root: Path, side: int = 8, mixed: bool = False, train: int = 10) -> Path:
    """`train` images of each class to train on, 3 to test on."""
    seed = 0
    for split, count in (("train", train), ("test", 3)):
        for name in CLASSES:
            for number in range(count):
                seed += 1
                width = side + (seed % 7 if mixed else 0)
                paint(root / split / name / f"{number:03}.png", (width, side), seed)
    return root
