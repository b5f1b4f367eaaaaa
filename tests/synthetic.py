"""Datasets that are not there: random images with a real dataset's shape and classes, and a few of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainables.data import Loading, TensorData, source


@dataclass(frozen=True)
class Synthetic:
    """A source that says 2000 images, and loads `loaded` random ones to train on and 4 to test on."""

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
        parts = []
        for examples, size in zip((self.loaded, 4), sizes, strict=True):
            parts.append(
                torch.randn(examples, self.channels, size, size, generator=generator).to(
                    loading.device
                )
            )
            parts.append(
                torch.randint(self.classes, (examples,), generator=generator).to(loading.device)
            )
        return TensorData(*parts)


SHAPES = {
    "cifar10": (10, 32),
    "cifar100": (100, 32),
    "tinyimagenet": (200, 64),
    "imagenet": (1000, 224),
}


def synthetic(name: str):
    """Instead of `trainables.data.source`: the digits themselves, and images of the others' shapes."""
    kind = name.partition(":")[0]
    if kind == "digits":
        return source(name)
    classes, size = SHAPES.get(kind, (3, 32))
    return Synthetic(name, classes, size)
