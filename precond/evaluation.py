"""A switch for optimizers whose weights for evaluation differ from those for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def evaluating(optimizer: Any) -> Iterator[None]:
    """Give the model its weights for evaluation inside the `with` block.

    Optimizers with the methods `train` and `eval`, such as Schedule-Free AdamW, have two sets
    of weights. For all other optimizers, and for one that is already in eval mode, nothing changes.
    The weights for training are restored bitwise after the block, so an evaluation does not change
    the training. The buffers of the model, such as the running statistics of a batch normalisation,
    do not change; they remain those of the weights for training.

    Do not change the weights inside the block.

    >>> with precond.evaluating(optimizer):
    ...     accuracy = evaluate(model)
    """
    if not _is_training(optimizer):
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for p, value in zip(parameters, before, strict=True):
                p.copy_(value)


def _is_training(optimizer: Any) -> bool:
    """Return True if the optimizer has the switch and is in train mode."""
    switch = [getattr(optimizer, name, None) for name in ("train", "eval")]
    modes = [group.get("train_mode", True) for group in optimizer.param_groups]
    return all(map(callable, switch)) and all(modes)
