"""A linear regression with a given condition number, whose exact optimum is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

from trainables.data.base import Loading, Source
from trainables.data.tensors import TensorData
from trainables.tasks import REGRESSION, Task

FEATURES, OUTPUTS = 64, 8


@dataclass(frozen=True)
class IllConditioned(Source):
    """1,000 training and 500 test examples: inputs `[n, 64]`, targets `[n, 8]` without noise.

    The Hessian of the loss with respect to a row of the weights is the covariance of the training
    inputs. The setting `condition` is the condition number of this matrix, whose eigenvalues are
    spaced logarithmically from 1 / condition to 1, in a random basis. Each eigenvector has the same
    influence on the targets, whose variance is about 1. The weights `exact_weights(condition)` and
    a bias of 0 have a loss of 0, up to rounding.
    """

    name: str = "illconditioned"
    classes: int = OUTPUTS
    train_examples: int = 1000
    test_examples: int = 500
    size: int = 1
    channels: int = FEATURES
    augmented: bool = False
    settings: tuple[str, ...] = ("condition",)
    task: Task = REGRESSION

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return an empty list, because the data are computed."""
        return []

    def load(self, loading: Loading) -> TensorData:
        """Load the data with the setting `condition`, which is 1 if it is missing."""
        condition = loading.settings.get("condition", 1.0)
        return TensorData.load([tensor.clone() for tensor in _tensors(condition)], loading)


def exact_weights(condition: float) -> Tensor:
    """Return the weights that give the targets, `[8, 64]` float32."""
    generator = Generator().manual_seed(1)
    influence = torch.randn(OUTPUTS, FEATURES, generator=generator, dtype=torch.float64)
    rotation, eigenvalues = _basis(condition)
    return (influence / FEATURES**0.5 / eigenvalues.sqrt() @ rotation.T).float()


def _basis(condition: float) -> tuple[Tensor, Tensor]:
    """Return the eigenvectors (columns) and the eigenvalues of the covariance, in float64."""
    generator = Generator().manual_seed(0)
    square = torch.randn(FEATURES, FEATURES, generator=generator, dtype=torch.float64)
    exponents = torch.linspace(0, 1, FEATURES, dtype=torch.float64)
    return torch.linalg.qr(square)[0], condition**-exponents


@cache
def _tensors(condition: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both splits on the CPU.

    The training inputs have exactly the given covariance and the mean 0, so that the bias does not
    change the condition number. The test inputs are drawn from a distribution with these moments.
    """
    rotation, eigenvalues = _basis(condition)
    weights = exact_weights(condition).double()
    generator = Generator().manual_seed(2)
    count = IllConditioned.train_examples
    train, test = (
        torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
        for size in (count, IllConditioned.test_examples)
    )
    centred = torch.linalg.qr(train - train.mean(0))[0] * count**0.5
    # The targets are computed from the rounded inputs, so that the optimum stays exact.
    inputs = [(part * eigenvalues.sqrt() @ rotation.T).float() for part in (centred, test)]
    targets = [(part.double() @ weights.T).float() for part in inputs]
    return inputs[0], targets[0], inputs[1], targets[1]
