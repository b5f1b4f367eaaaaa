"""What the preconditioners do to each layer, on request.

>>> optimizer.monitor()  # before training, or at any time
>>> optimizer.diagnostics()["conv1"]["cosine"]  # reads the device, and starts a new window

`docs/diagnostics.md` defines the measures and counts, and says how they are estimated and what they cost.
Every seventh step is measured, because 7 shares no factor with the usual intervals of 5, 50 and 500.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from precond.bank import Bank
from precond.diagnostics.monitor import COUNTS, MEASURES, Clock, Monitor, Tally
from precond.parts.stacks import dropped

EVERY = 7

Table = dict[str, dict[str, float | None]]


def watch(banks: Sequence[Bank], on: bool) -> Clock | None:
    """Start a monitor of each bank, with one clock; or end them."""
    clock = Clock(banks[0].buffer.device) if on else None
    for bank in banks:
        bank.watch(clock)
    return clock


def read(banks: Iterable[Bank]) -> Table:
    """Every layer's measures and counts; begins a window. One read of the device for each bank.

    Where a layer has groups, measures are means over them and counts are sums.
    """
    table: Table = {}
    for bank in banks:
        columns = {} if bank.monitor is None else bank.monitor.read()
        total = dropped(bank.state)
        columns |= bank.tally.counts(total)
        bank.tally = Tally(total)
        numbers = torch.stack([column.double() for column in columns.values()]).tolist()
        values = dict(zip(columns, numbers, strict=True))
        for layer in bank.layers:
            slots = bank.slots[layer.name]
            row: dict[str, float | None] = {
                name: _mean(values.get(name, [])[slots]) for name in MEASURES
            }
            table[layer.name] = {**row, **{name: int(sum(values[name][slots])) for name in COUNTS}}
    return table


def due(banks: Iterable[Bank], step: int) -> list[Monitor]:
    """The monitors that measure this step, which is about to be made."""
    monitors = [bank.monitor for bank in banks if bank.monitor is not None]
    for monitor in monitors:
        monitor.measuring = step % EVERY == 0
        if monitor.measuring:
            monitor.before_update()
    return [monitor for monitor in monitors if monitor.measuring]


def state(banks: Iterable[Bank]) -> dict[str, Any]:
    """What the monitors have seen, as `{"monitor": {layer: {name: view}}}`; empty where there is none."""
    seen = {
        name: {key: tensor[slots] for key, tensor in bank.monitor.tensors().items()}
        for bank in banks
        if bank.monitor is not None
        for name, slots in bank.slots.items()
    }
    return {"monitor": seen} if seen else {}


def load_state(banks: Iterable[Bank], saved: Mapping[str, Any]) -> None:
    """Begin a window, and copy in what `state` returned, if there are monitors."""
    banks = list(banks)
    for bank in banks:
        bank.tally = Tally(dropped(bank.state))
    for name, tensors in state(banks).get("monitor", {}).items():
        seen: Mapping[str, Tensor] = saved.get("monitor", {}).get(name, {})
        for key in tensors.keys() & seen.keys():
            tensors[key].copy_(seen[key])


def _mean(values: Sequence[float]) -> float | None:
    """Mean of those that are finite."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
