"""Small folders of images with random pixels, for the tests of datasets."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

CLASSES = ("bird", "cat", "dog")


def paint(path: Path, size: tuple[int, int], seed: int) -> None:
    """Write a PNG file of random pixels; `size` is its width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (size[1], size[0], 3), generator=generator)
    Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)


def make_folder(root: Path, side: int = 8, mixed: bool = False, train: int = 10) -> Path:
    """Write an image folder of three classes and return its path.

    Args:
        root: The folder.
        side: Height of the images, and width of the narrowest.
        mixed: If True, the images have different widths.
        train: Training images per class; there are 3 test images per class.
    """
    seed = 0
    for split, count in (("train", train), ("test", 3)):
        for name in CLASSES:
            for number in range(count):
                seed += 1
                width = side + (seed % 7 if mixed else 0)
                paint(root / split / name / f"{number:03}.png", (width, side), seed)
    return root
