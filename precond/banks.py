"""The banks of one optimizer: how layers are grouped, and how ranks divide the refreshes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from precond import distributed
from precond.algorithm import Algorithm
from precond.bank import Bank
from precond.layers import Layer
from precond.parts.collectives import Ranks


def make_banks(
    algorithm: Algorithm[Any],
    layers: Iterable[Layer],
    group_of: Mapping[Tensor, int],
    wait: bool = True,
    groups: Sequence[Mapping[str, Any]] = (),
) -> list[Bank]:
    """Group layers by shape, dtype, device and the parameter group of their weight.

    `groups` are the parameter groups; their values replace those of the algorithm.
    """
    algorithms = [algorithm.for_group(group) for group in groups]
    members: dict[Any, list[Layer]] = {}
    for layer in layers:
        weight = layer.weight
        key = (layer.shape, weight.dtype, weight.device, group_of[weight])
        members.setdefault(key, []).append(layer)
    return [
        Bank(algorithms[group] if algorithms else algorithm, stack, group, wait)
        for (*_, group), stack in members.items()
    ]


def share_refresh(algorithm: Algorithm[Any], banks: Sequence[Bank], ranks: Ranks | None) -> None:
    """Split the refreshes across the ranks, if the algorithm declares `SHARED`."""
    if ranks is None or not algorithm.SHARED:
        return
    shapes = [bank.buffer.shape for bank in banks]
    # For each slot, a refresh factorises a matrix of size d_out, one of size d_in, or both.
    costs = [(slots, d_out**3 + d_in**3) for slots, d_out, d_in in shapes]
    for bank, share in zip(banks, distributed.shares(costs, ranks), strict=True):
        bank.share = share


def update(banks: Sequence[Bank], refresh: bool, skipped: Tensor | None) -> None:
    """Update every bank (see `Bank.update`), and exchange the shares of a split refresh."""
    distributed.exchange([part for bank in banks for part in bank.update(refresh, skipped)])
    for bank in banks:
        bank.note_refresh()
