"""Datasets as tensors on the training device: no worker processes, no copy and no synchronisation in a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorData:
    """A dataset that fits on the device.

    Attributes:
        train_inputs: `[n, ...]`.
        train_labels: `[n]` int64.
        test_inputs: `[m, ...]`.
        test_labels: `[m]` int64.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches in the training set; the last, smaller one is dropped."""
        return len(self.train_labels) // batch_size

    def train_batches(self, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of (inputs, labels) in the order that the seed gives, the same on every device."""
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(seed))
        order = order.to(self.train_labels.device)
        for step in range(self.steps_per_epoch(batch_size)):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            yield self.train_inputs[chosen], self.train_labels[chosen]

    def test_batches(self, batch_size: int = 1024) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set in order, (inputs, labels)."""
        return zip(self.test_inputs.split(batch_size), self.test_labels.split(batch_size), strict=True)
