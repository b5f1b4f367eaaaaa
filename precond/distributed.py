"""Data parallel training: who the ranks are, sums over them, and the work of a refresh shared between them.

Each rank holds the whole model and the whole state, sees its own part of the batch, and makes the same steps.
DistributedDataParallel averages the gradients; what the layers saw is added up here, before any average is updated, so
that the state is the same on all ranks, bit for bit, and that of one process with the whole batch. The ranks are *in
force* during `Optimizer.step`; outside of it, and in one process, everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model together.

    Attributes:
        group: Their process group; None is the default one.
        rank: This process's number among them.
        size: How many they are.
    """

    group: Any
    rank: int
    size: int


_in_force: ContextVar[Ranks | None] = ContextVar("ranks in force", default=None)


def ranks_of(model: nn.Module) -> Ranks | None:
    """The ranks that train a model: those of the DistributedDataParallel in it, else all there are; None if alone."""
    wrappers = (module for module in model.modules() if isinstance(module, DistributedDataParallel))
    wrapper = next(wrappers, None)
    if wrapper is None and not _initialized():
        return None
    group = None if wrapper is None else wrapper.process_group
    return Ranks(group, dist.get_rank(group), dist.get_world_size(group))


@contextmanager
def in_force(ranks: Ranks | None) -> Iterator[None]:
    """Let sums in this block go over these ranks.

    Raises:
        RuntimeError: There were no other ranks when the optimizer was built, but there are now.
    """
    if ranks is None and _initialized():
        raise RuntimeError("torch.distributed was initialised after this optimizer was built: build it after that")
    token = _in_force.set(ranks)
    try:
        yield
    finally:
        _in_force.reset(token)


def _initialized() -> bool:
    """Whether there is a default group of more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


# ---------------------------------------------------------------------- sums; every rank must call them alike


def parallel() -> bool:
    """Whether there are ranks in force, so that even one that has nothing to add must take part in a sum."""
    return _in_force.get() is not None


def add_up(tensors: Iterable[Tensor]) -> None:
    """Sum tensors over the ranks, in place; the result has the same bits on all."""
    if ranks := _in_force.get():
        works = [dist.all_reduce(tensor, group=ranks.group, async_op=True) for tensor in tensors]
        for work in works:
            assert work is not None
            work.wait()


def union(flags: list[bool], device: torch.device) -> list[bool]:
    """Flags that are set on any rank. A rank that has set all knows the answer and does not read the device."""
    ranks = _in_force.get()
    if ranks is None:
        return flags
    if all(flags):
        counts = torch.ones(len(flags), dtype=torch.int32, device=device)
    else:
        counts = torch.tensor(flags, dtype=torch.int32, device=device)
    add_up([counts])
    return flags if all(flags) else (counts > 0).tolist()


# ---------------------------------------------------------------------- sharing the work of a refresh


def shares(banks: Sequence[tuple[int, float]], ranks: Ranks) -> list[slice]:
    """Which slots of each bank this rank refreshes: the dearest slot first, always to the rank with the least to do.

    Args:
        banks: For each, its number of slots and the cost of one of them.
        ranks: The ranks; all come to the same result.
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
    """Complete stacks of which each rank has made the slots in its share: exact, since all others add zeros."""
    tensors = []
    for tensor, share in shared:
        tensor = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
        tensor[: share.start].zero_()
        tensor[share.stop :].zero_()
        tensors.append(tensor)
    add_up(tensors)


# ---------------------------------------------------------------------- do the ranks have the same model?


def describe(names: Mapping[Tensor, str]) -> dict[str, str]:
    """Parameters by name, as what must be alike on all ranks."""
    kinds = {name: f"{list(p.shape)} {str(p.dtype).removeprefix('torch.')}" for p, name in names.items()}
    return {name: kinds[name] + ("" if p.requires_grad else " frozen") for p, name in names.items()}


def check_alike(ranks: Ranks | None, description: Mapping[str, Any]) -> None:
    """Compare descriptions over the ranks.

    Raises:
        ValueError: They differ; on every rank, with the first difference.
    """
    if ranks is None:
        return
    found: list[Any] = [None] * ranks.size
    dist.all_gather_object(found, {name: str(value) for name, value in description.items()}, group=ranks.group)
    for rank, other in enumerate(found):
        for name in [*found[0], *other]:
            first, this = (one.get(name, "missing") for one in (found[0], other))
            if first != this:
                raise ValueError(
                    f"the ranks differ: {name} is {first} on rank 0, {this} on rank {rank}. "
                    "Build the same model and optimizer on every rank"
                )
