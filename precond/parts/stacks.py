"""Functions on the state of a bank, for any algorithm.

A state consists of nested dataclasses of stacks `[L, ...]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from precond.parts.batches import LastBatch
from precond.parts.pairs import Pairs
from precond.parts.statistics import KroneckerStatistic, MovingAverage

Part = TypeVar("Part")


def part_of(state: Any, slots: slice) -> Any:
    """Return the state of some slots as views: in-place changes also change the full state."""
    parts = {}
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            parts[name] = value[slots]
        elif is_dataclass(value):
            parts[name] = part_of(value, slots)
    return replace(state, **parts)


def named_tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a state, as ("statistic.average.value", tensor).

    Fields whose names start with `_` are not part of the saved state, and are skipped.
    """
    for name, value in vars(state).items():
        if name.startswith("_"):
            continue
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif is_dataclass(value):
            yield from named_tensors(value, f"{prefix}{name}.")


def parts(state: Any, *kinds: type[Part]) -> Iterator[Part]:
    """Yield the parts of a state that are instances of these classes."""
    for value in vars(state).values():
        if isinstance(value, kinds):
            yield value
        elif is_dataclass(value):
            yield from parts(value, *kinds)


def forget(state: Any, skipped: Tensor) -> None:
    """Discard the data added since the last commit if `skipped` (a bool tensor) is True."""
    for part in parts(state, MovingAverage, Pairs):
        part.forget(skipped)


def discard(state: Any, slots: slice) -> None:
    """Discard what was added to some slots of a state since its last commit."""
    for part in parts(state, MovingAverage, Pairs):
        part.discard(slots)


def rescale_outputs(state: Any, factor: Tensor) -> None:
    """Multiply the output gradients that were added since the last commit by a factor."""
    for part in parts(state, KroneckerStatistic, Pairs):
        part.rescale(factor)


def dropped(state: Any) -> Tensor:
    """Return the number of updates that the statistics of each slot dropped, `[L]`."""
    return torch.stack([part.dropped for part in parts(state, MovingAverage, LastBatch)]).sum(0)
