"""A bank's state as a whole: nested dataclasses of stacks `[L, ...]`, whatever the algorithm that made it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from precond.parts.pairs import Pairs
from precond.parts.statistics import MovingAverage


def part_of(state: Any, slots: slice) -> Any:
    """A state of some slots only, made of views: what is stored there in place is stored in the whole."""
    parts = {}
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            parts[field.name] = value[slots]
        elif dataclasses.is_dataclass(value):
            parts[field.name] = part_of(value, slots)
    return dataclasses.replace(state, **parts)


def named_tensors(state: Any, prefix: str = "") -> Iterable[tuple[str, Tensor]]:
    """The tensors of nested dataclasses as ("statistic.average.value", tensor); fields with `_` are transient."""
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if field.name.startswith("_"):
            continue
        if isinstance(value, Tensor):
            yield prefix + field.name, value
        elif dataclasses.is_dataclass(value):
            yield from named_tensors(value, f"{prefix}{field.name}.")


def forget(state: Any, skipped: Tensor) -> None:
    """Drop what was added to a state since its last commit, where `skipped`, without reading the device."""
    for field in dataclasses.fields(state):
        part = getattr(state, field.name)
        if isinstance(part, (MovingAverage, Pairs)):
            part.forget(skipped)
        elif dataclasses.is_dataclass(part):
            forget(part, skipped)
