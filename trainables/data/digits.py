"""The 1,797 handwritten digits of scikit-learn (8 x 8 pixels, 10 classes).

The split is that of scikit-learn's `train_test_split(..., test_size=600, stratify=labels,
random_state=0)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from trainables.data.packaged import (
    PackagedSource,
    Tensors,
    standardised_images,
    stratified_split,
)

TEST_IMAGES = 600
TRAIN_COUNTS = (119, 121, 118, 122, 120, 121, 121, 119, 116, 120)  # of the digits 0 to 9


@dataclass(frozen=True)
class Digits(PackagedSource):
    """The digits dataset: 1,197 training and 600 test images `[n, 1, 8, 8]`, standardised."""

    name: str = "digits"
    classes: int = 10
    train_examples: int = sum(TRAIN_COUNTS)
    test_examples: int = TEST_IMAGES
    channels: int = 1
    size: int = 8
    package: str = "scikit-learn"
    module: str = "sklearn"
    files: tuple[str, ...] = ("datasets/data/digits.csv.gz",)

    def tensors(self) -> Tensors:
        """Return the images and labels of both splits."""
        return _tensors()


@cache
def _tensors() -> Tensors:
    import numpy

    (path,) = Digits().paths()
    rows = torch.from_numpy(numpy.loadtxt(path, delimiter=",", dtype=numpy.float32))
    images, labels = rows[:, :64].reshape(-1, 1, 8, 8), rows[:, 64].long()
    return standardised_images(images, labels, *_split(labels))


def _split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shuffled positions of the training images and of the test images."""
    import numpy

    random = numpy.random.RandomState(0)
    random.permutation(2)  # scikit-learn draws this to break a tie between two classes
    return stratified_split(labels, TRAIN_COUNTS, random)
