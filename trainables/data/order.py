"""The order of an epoch's examples, the shares of a batch, and the held-out examples."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def epoch_order(examples: int, repeats: int, generator: Generator) -> Tensor:
    """Return the shuffled positions of an epoch's examples, `[examples]` int64.

    If `repeats` is above 1, each position occurs `repeats` times in a row; the epoch then ends
    before all positions have occurred.
    """
    order = torch.randperm(examples, generator=generator)
    return order.repeat_interleave(repeats)[:examples] if repeats > 1 else order


def share(step: int, batch_size: int, rank: int, ranks: int) -> slice:
    """Return the slice of an epoch's order that is a rank's share of a batch.

    The sizes of the shares of a batch differ by at most one.
    """
    start = step * batch_size
    return slice(start + rank * batch_size // ranks, start + (rank + 1) * batch_size // ranks)


def held_out(labels: Tensor, train_fraction: float) -> tuple[Tensor, Tensor]:
    """Return the positions to train on and the held-out positions, both in ascending order.

    The held-out share of each class is rounded to whole examples. The held-out examples are the
    same in every trial.

    Args:
        labels: `[n]` int64 on the CPU.
        train_fraction: The share of each class to train on.
    """
    generator = Generator().manual_seed(0)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = len(members) - round(train_fraction * len(members))
        mask[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()
