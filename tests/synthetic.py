"""Replacements for the datasets: a few random images with the shape and classes of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainables.data import Loading, TensorData, source
from trainables.data.base import Source


@dataclass(frozen=True)
class Synthetic(Source):
    """A source that declares 2000 training images, but loads only `loaded` and 4 test images."""

    name: str
    classes: int
    size: int
    channels: int = 3
    train_examples: int = 2000
    test_examples: int = 500
    loaded: int = 4
    augmented: bool = True

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        return []

    def load(self, loading: Loading) -> TensorData:
        generator = torch.Generator().manual_seed(0)
        sizes = [
            loading.settings.get(name, self.size) for name in ("resolution", "test_resolution")
        ]
        tensors = []
        for examples, size in zip((self.loaded, 4), sizes, strict=True):
            shape = (examples, self.channels, size, size)
            tensors.append(torch.randn(shape, generator=generator))
            tensors.append(torch.randint(self.classes, (examples,), generator=generator))
        return TensorData(*(tensor.to(loading.device) for tensor in tensors))


SHAPES = {
    "cifar10": (10, 32),
    "cifar100": (100, 32),
    "tinyimagenet": (200, 64),
    "imagenet": (1000, 224),
}


def synthetic(name: str):
    """Replace `trainables.data.source`: return random images for datasets that are not installed."""
    kind = name.partition(":")[0]
    if kind not in (*SHAPES, "imagefolder"):
        return source(name)
    classes, size = SHAPES.get(kind, (3, 32))
    return Synthetic(name, classes, size)
