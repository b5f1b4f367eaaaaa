"""The diabetes data of scikit-learn: the inputs are 10 measurements of each of 442 patients.

The target is a measure of the progression of the disease after one year.

The data are from Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", 2004. The split
is that of scikit-learn's `train_test_split(..., test_size=100, random_state=0)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from trainables.data.packaged import PackagedSource, Tensors
from trainables.tasks import REGRESSION, Task

TEST_EXAMPLES = 100


@dataclass(frozen=True)
class Diabetes(PackagedSource):
    """342 training and 100 test examples: inputs `[n, 10]`, targets `[n, 1]`, standardised.

    The mean and the standard deviation are those of the training set. A model that always predicts
    0, the mean of the training targets, therefore has a mean squared error of 1 on this set.
    """

    name: str = "diabetes"
    classes: int = 1
    train_examples: int = 342
    test_examples: int = TEST_EXAMPLES
    channels: int = 10
    size: int = 1
    task: Task = REGRESSION
    package: str = "scikit-learn"
    module: str = "sklearn"
    files: tuple[str, ...] = (
        "datasets/data/diabetes_data_raw.csv.gz",
        "datasets/data/diabetes_target.csv.gz",
    )

    def tensors(self) -> Tensors:
        """Return the inputs and targets of both splits."""
        return _tensors()


@cache
def _tensors() -> Tensors:
    import numpy

    columns = [numpy.loadtxt(path).reshape(442, -1) for path in Diabetes().paths()]
    order = numpy.random.RandomState(0).permutation(442)
    test, train = order[:TEST_EXAMPLES], order[TEST_EXAMPLES:]
    scaled = [(values - values[train].mean(0)) / values[train].std(0) for values in columns]
    inputs, targets = (torch.from_numpy(values).float() for values in scaled)
    return inputs[train], targets[train], inputs[test], targets[test]
