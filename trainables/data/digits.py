"""The 1,797 handwritten digits that ship with scikit-learn (8 x 8 pixels, 10 classes): nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from trainables.data import Loading, TensorData, held_out

TEST_IMAGES = 600


@dataclass(frozen=True)
class Digits:
    """The dataset's facts; it is never augmented."""

    name: str = "digits"
    classes: int = 10
    train_examples: int = 1797 - TEST_IMAGES
    channels: int = 1
    size: int = 8
    augmented: bool = False

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """None: they are a part of scikit-learn."""
        return []

    def load(self, loading: Loading) -> TensorData:
        """`digits` on the device; with `train_fraction` below 1 the held-out images take the test set's place."""
        whole = digits(loading.device)
        x, y, test_x, test_y = whole.train_inputs, whole.train_labels, whole.test_inputs, whole.test_labels
        if loading.train_fraction < 1:
            kept, out = (part.to(loading.device) for part in held_out(y.cpu(), loading.train_fraction))
            x, y, test_x, test_y = x[kept], y[kept], x[out], y[out]
        return TensorData(x, y, test_x, test_y, loading.rank, loading.ranks)


def digits(device: torch.device) -> TensorData:
    """1,197 training and 600 test images `[n, 1, 8, 8]`, split once and for all, by class in proportion.

    Pixels are standardised with the training set's mean and standard deviation.
    """
    train_x, train_y, test_x, test_y = (tensor.to(device, copy=True) for tensor in _tensors())
    return TensorData(train_x, train_y, test_x, test_y)


@cache
def _tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and labels of both splits on the CPU, read once in a process; whoever trains gets copies."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=0)
    train_x, test_x = (torch.as_tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) for x in split[:2])
    train_y, test_y = (torch.as_tensor(y, dtype=torch.int64) for y in split[2:])
    mean, deviation = train_x.mean(), train_x.std()
    return (train_x - mean) / deviation, train_y, (test_x - mean) / deviation, test_y
