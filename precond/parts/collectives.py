"""Sums over the ranks that train one model together. The result is bitwise equal on all ranks.

The ranks are *active* during `Optimizer.step`. A context variable stores them, so that they need
not be passed through many calls to the statistics. Outside a step, and in a single process,
`add_up` has no effect, and the other functions need no communication. All active ranks must call these functions
in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The process group (None: the default group), this process's rank, and the group's size."""

    group: Any
    rank: int
    size: int


_active: ContextVar[Ranks | None] = ContextVar("active ranks", default=None)


def initialized() -> bool:
    """Return True if there is a default process group of more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def active(ranks: Ranks | None) -> Iterator[None]:
    """Make `ranks` the active ranks inside the `with` block.

    Raises:
        RuntimeError: `ranks` is None because the optimizer was built before torch.distributed was
            initialised.
    """
    if ranks is None and initialized():
        raise RuntimeError(
            "torch.distributed was initialised after this optimizer was built. "
            "Build the optimizer after torch.distributed.init_process_group"
        )
    token = _active.set(ranks)
    try:
        yield
    finally:
        _active.reset(token)


def parallel() -> bool:
    """Return True if ranks are active.

    In this case, every rank must take part in every sum, even if it has nothing to add.
    """
    return _active.get() is not None


def add_up(tensors: Iterable[Tensor]) -> None:
    """Sum tensors over the ranks, in place."""
    if ranks := _active.get():
        works = [dist.all_reduce(tensor, group=ranks.group, async_op=True) for tensor in tensors]
        for work in works:
            assert work is not None
            work.wait()


def places(counts: list[int], device: torch.device) -> tuple[list[int], int]:
    """Return where each rank stores its parts of common lists, so that the ranks do not overlap.

    Args:
        counts: The number of elements that this rank adds to each list.
        device: The device on which the ranks exchange the numbers.

    Returns:
        The index of this rank's first element in each list, and the length of the longest list, at
        least 1.
    """
    if (ranks := _active.get()) is None:
        return len(counts) * [0], max(1, *counts)
    table = torch.zeros(ranks.size, len(counts), dtype=torch.int64, device=device)
    table[ranks.rank] = torch.tensor(counts, device=device)
    add_up([table])
    table = table.cpu()
    return table[: ranks.rank].sum(0).tolist(), max(1, int(table.sum(0).max()))


def union(flags: list[bool], device: torch.device) -> list[bool]:
    """Return True for each flag that is set on at least one rank.

    A rank on which all flags are set does not wait for the device.
    """
    if not parallel():
        return flags
    if all(flags):
        counts = torch.ones(len(flags), dtype=torch.int32, device=device)
    else:
        counts = torch.tensor(flags, dtype=torch.int32, device=device)
    add_up([counts])
    return flags if all(flags) else (counts > 0).tolist()
