"""Datasets of tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

from trainables.data.base import Batch, Data, Loading
from trainables.data.order import epoch_order, held_out, share


@dataclass
class TensorData(Data):
    """A dataset in device memory that is not augmented.

    Inputs and targets are tensors `[n, ...]`, or dictionaries of such tensors.

    Attributes:
        train_inputs: Inputs of n examples.
        train_targets: Targets of n examples.
        test_inputs: Inputs of m examples.
        test_targets: Targets of m examples.
        rank: Index of the share of a batch that this process receives.
        ranks: Number of shares.
    """

    train_inputs: Any
    train_targets: Any
    test_inputs: Any
    test_targets: Any
    rank: int = 0
    ranks: int = 1

    def __post_init__(self):
        self._device = tree_leaves(self.train_targets)[0].device
        self.train_examples = len(tree_leaves(self.train_targets)[0])
        self.evaluation_examples = len(tree_leaves(self.test_targets)[0])

    @classmethod
    def load(cls, tensors: Sequence[Any], loading: Loading, *, ordered: bool = False) -> TensorData:
        """Return the dataset on the trial's device.

        Args:
            tensors: Training inputs, training targets, test inputs and test targets, on the CPU.
            loading: The trial's loading options.
            ordered: Hold out the end of the training set instead of random examples, for data whose
                neighbouring examples are related.
        """
        x, y, test_x, test_y = tensors
        if loading.train_fraction < 1:
            if ordered:
                train, test = _ends(len(tree_leaves(y)[0]), loading.train_fraction)
            else:
                train, test = held_out(_strata(y), loading.train_fraction)
            x, y, test_x, test_y = _at(x, train), _at(y, train), _at(x, test), _at(y, test)
        parts = (tree_map(lambda t: t.to(loading.device), part) for part in (x, y, test_x, test_y))
        return cls(*parts, rank=loading.rank, ranks=loading.ranks)

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield the (inputs, targets) of one epoch in an order that the seed determines."""
        order = epoch_order(self.train_examples, 1, Generator().manual_seed(seed))
        order = order.to(self._device)
        for step in range(self.steps_per_epoch(batch_size)):
            positions = order[share(step, batch_size, self.rank, self.ranks)]
            yield _at(self.train_inputs, positions), _at(self.train_targets, positions)

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the (inputs, targets) of the test set in order."""
        for start in range(0, self.evaluation_examples, batch_size):
            positions = slice(start, start + batch_size)
            yield _at(self.test_inputs, positions), _at(self.test_targets, positions)


def _at(data: Any, positions: Tensor | slice) -> Any:
    """Return the examples at some positions."""
    return tree_map(lambda tensor: tensor[positions], data)


def _strata(targets: Any) -> Tensor:
    """Return labels by which held-out examples are stratified: classes, or a single stratum."""
    first = tree_leaves(targets)[0]
    is_labels = isinstance(targets, Tensor) and first.dim() == 1 and first.dtype == torch.int64
    return targets if is_labels else torch.zeros(len(first), dtype=torch.int64)


def _ends(examples: int, train_fraction: float) -> tuple[slice, slice]:
    """Return the slices of the first examples and of the last examples, which are held out."""
    count = round(train_fraction * examples)
    return slice(count), slice(count, None)
