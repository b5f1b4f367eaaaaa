"""Data parallel training: who the ranks are, whether they have the same model, and how they share a refresh.

Each rank holds the whole model and the whole state, sees its own part of the batch, and makes the same steps.
DistributedDataParallel averages the gradients. What the layers saw is summed here (`parts/collectives.py`) before any
moving average is updated, so the state is bitwise the same on all ranks, and equals that of one process with the whole
batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from precond.parts.collectives import Ranks, add_up, initialized


def ranks_of(model: nn.Module) -> Ranks | None:
    """Return the ranks of the model's DistributedDataParallel, or all ranks, or None in a single process."""
    wrappers = (module for module in model.modules() if isinstance(module, DistributedDataParallel))
    wrapper = next(wrappers, None)
    if wrapper is None and not initialized():
        return None
    group = None if wrapper is None else wrapper.process_group
    return Ranks(group, dist.get_rank(group), dist.get_world_size(group))


def shares(banks: Sequence[tuple[int, float]], ranks: Ranks) -> list[slice]:
    """Return the slots of each bank that this rank refreshes: the most expensive first, to the least loaded rank.

    Args:
        banks: The number of slots of each bank, and the cost of a slot.
        ranks: The ranks; each computes the same division.
    """
    load = [0.0] * ranks.size
    counts = [[0] * ranks.size for _ in banks]
    for bank, (slots, cost) in sorted(enumerate(banks), key=lambda item: -item[1][1]):
        for _ in range(slots):
            rank = min(range(ranks.size), key=load.__getitem__)
            load[rank] += cost
            counts[bank][rank] += 1
    bounds = ([0, *accumulate(numbers)] for numbers in counts)
    return [slice(*list(pairwise(ends))[ranks.rank]) for ends in bounds]


def exchange(shared: Iterable[tuple[Tensor, slice]]) -> None:
    """Complete stacks of which each rank has computed its share of the slots; exact, since the others add zeros."""
    tensors = []
    for tensor, share in shared:
        tensor = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
        tensor[: share.start].zero_()
        tensor[share.stop :].zero_()
        tensors.append(tensor)
    add_up(tensors)


def describe(names: Mapping[Tensor, str]) -> dict[str, str]:
    """Return the properties of each parameter that must be equal on all ranks, by name."""
    kinds = {
        name: f"{list(p.shape)} {str(p.dtype).removeprefix('torch.')}" for p, name in names.items()
    }
    return {name: kinds[name] + ("" if p.requires_grad else " frozen") for p, name in names.items()}


def check_alike(ranks: Ranks | None, description: Mapping[str, Any]) -> None:
    """Compare descriptions over the ranks.

    Raises:
        ValueError: On every rank, with the first difference.
    """
    if ranks is None:
        return
    gathered: list[Any] = [None] * ranks.size
    dist.all_gather_object(
        gathered, {name: str(value) for name, value in description.items()}, group=ranks.group
    )
    for rank, other in enumerate(gathered):
        for name in [*gathered[0], *other]:
            first, this = (values.get(name, "missing") for values in (gathered[0], other))
            if first != this:
                raise ValueError(
                    f"the ranks differ: {name} is {first} on rank 0, {this} on rank {rank}. "
                    "Build the same model and optimizer on every rank"
                )
