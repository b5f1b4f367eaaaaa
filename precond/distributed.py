"""Data parallel training: the ranks, a check that they agree, and the split of a refresh.

Each rank has the whole model and the whole state, receives its part of the batch, and makes the
same steps. DistributedDataParallel averages the gradients. The statistics of a step are summed over
the ranks (`parts/collectives.py`) before any moving average is updated. So the state is bitwise
equal on all ranks. Up to rounding, it equals the state of one process with the whole batch.
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
    """Return the ranks of the model's DistributedDataParallel, or else all ranks.

    Return None in a single process.
    """
    wrappers = (module for module in model.modules() if isinstance(module, DistributedDataParallel))
    wrapper = next(wrappers, None)
    if wrapper is None and not initialized():
        return None
    group = None if wrapper is None else wrapper.process_group
    return Ranks(group, dist.get_rank(group), dist.get_world_size(group))


def shares(banks: Sequence[tuple[int, float]], ranks: Ranks) -> list[slice]:
    """Return the slots of each bank that this rank refreshes.

    The slots are assigned in the order of decreasing cost, each to the rank with the lowest load.

    Args:
        banks: For each bank, the number of slots and the cost of refreshing one slot.
        ranks: The ranks; each rank computes the same assignment.
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
    """Give every rank all slots of tensors of which each rank has computed its share.

    This is a sum over the ranks. It is exact, because only one rank contributes to each slot; all
    other ranks contribute zeros.
    """
    tensors = []
    for tensor, share in shared:
        tensor = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
        tensor[: share.start].zero_()
        tensor[share.stop :].zero_()
        tensors.append(tensor)
    add_up(tensors)


def describe(names: Mapping[Tensor, str]) -> dict[str, str]:
    """Return the properties of each parameter that must be equal on all ranks, by name."""
    description = {}
    for parameter, name in names.items():
        dtype = str(parameter.dtype).removeprefix("torch.")
        frozen = "" if parameter.requires_grad else " frozen"
        description[name] = f"{list(parameter.shape)} {dtype}{frozen}"
    return description


def check_alike(ranks: Ranks | None, description: Mapping[str, Any]) -> None:
    """Compare the descriptions of all ranks.

    Raises:
        ValueError: The ranks differ. Every rank raises the error, with the first difference.
    """
    if ranks is None:
        return
    texts = {name: str(value) for name, value in description.items()}
    gathered: list[Any] = [None] * ranks.size
    dist.all_gather_object(gathered, texts, group=ranks.group)
    expected = gathered[0]
    for rank, actual in enumerate(gathered):
        for name in [*expected, *actual]:
            first, value = expected.get(name, "missing"), actual.get(name, "missing")
            if first != value:
                raise ValueError(
                    f"the ranks differ: {name} is {first} on rank 0, {value} on rank {rank}. "
                    "Build the same model and optimizer on every rank"
                )
