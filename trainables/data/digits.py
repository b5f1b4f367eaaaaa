"""The 1,797 handwritten digits of scikit-learn (8 x 8 pixels, 10 classes).

The images are part of the scikit-learn package, so there is nothing to download. Importing
scikit-learn would cost a worker about a second and 180 MiB, so the data file is read without this
import. The split is that of scikit-learn's `train_test_split(..., test_size=600, stratify=labels,
random_state=0)`; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from trainables.data.base import DataError, Loading, Source, TensorData

TEST_IMAGES = 600
TRAIN_COUNTS = (119, 121, 118, 122, 120, 121, 121, 119, 116, 120)  # of the digits 0 to 9


@dataclass(frozen=True)
class Digits(Source):
    """The digits dataset; it is never augmented."""

    name: str = "digits"
    classes: int = 10
    train_examples: int = sum(TRAIN_COUNTS)
    test_examples: int = TEST_IMAGES
    channels: int = 1
    size: int = 8
    augmented: bool = False

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line if scikit-learn's data file is missing."""
        try:
            _file()
        except DataError as error:
            return [str(error)]
        return []

    def load(self, loading: Loading) -> TensorData:
        """Load 1,197 training and 600 test images `[n, 1, 8, 8]`.

        They are standardised with the mean and the standard deviation of the training set.
        """
        return TensorData.load([tensor.clone() for tensor in _tensors()], loading)


@cache
def _tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the inputs and labels of both splits on the CPU, read once per process."""
    import numpy

    rows = torch.from_numpy(numpy.loadtxt(_file(), delimiter=",", dtype=numpy.float32))
    images, labels = rows[:, :64].reshape(-1, 1, 8, 8), rows[:, 64].long()
    train, test = _split(labels)
    mean, deviation = images[train].mean(), images[train].std()
    inputs = (images - mean) / deviation
    return inputs[train], labels[train], inputs[test], labels[test]


def _split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shuffled positions of the training images and of the test images."""
    import numpy

    random = numpy.random.RandomState(0)
    random.permutation(2)  # scikit-learn draws this to break a tie between two classes
    train, test = [], []
    for digit, count in enumerate(TRAIN_COUNTS):
        members = random.permutation((labels == digit).nonzero().flatten().numpy())
        train.append(members[:count])
        test.append(members[count:])
    shuffled = (
        torch.from_numpy(random.permutation(numpy.concatenate(parts))) for parts in (train, test)
    )
    return next(shuffled), next(shuffled)


def _file() -> Path:
    """Return the path of scikit-learn's data file.

    Raises:
        DataError: scikit-learn is not installed, or its installation lacks the file.
    """
    spec = find_spec("sklearn")  # does not import the package
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise DataError(
        "digits: not found; the data are a file of scikit-learn. Run pip install scikit-learn"
    )
