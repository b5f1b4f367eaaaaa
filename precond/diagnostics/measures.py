"""Measures of the effect of the preconditioners on each layer.

>>> optimizer.monitor()  # before training, or at any time
>>> optimizer.diagnostics()["conv1"]["cosine"]  # reads the device, and starts a new window

A *window* is the time between two calls of `diagnostics()`. `docs/diagnostics.md` defines the
measures and counts, and describes the estimates and their cost. Every seventh step is measured.
Because 7 has no common factor with the usual intervals of 5, 50 and 500, new and old factors are
measured equally often.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from precond.bank import Bank
from precond.diagnostics.monitor import COUNTS, MEASURES, Clock, Monitor, Tally
from precond.layer_coverage import Coverage
from precond.parts.stacks import dropped

EVERY = 7

Table = dict[str, dict[str, float | None]]


class Diagnostics(Table):
    """The measures and counts of each preconditioned layer, by its name.

    Attributes:
        coverage: The numbers of layers and parameters that are preconditioned.
    """

    def __init__(self, table: Table, coverage: Coverage):
        super().__init__(table)
        self.coverage = coverage


def watch(banks: Sequence[Bank], on: bool) -> Clock | None:
    """Start a monitor in each bank and return their shared clock; or, if not `on`, stop them."""
    clock = Clock(banks[0].buffer.device) if on else None
    for bank in banks:
        bank.watch(clock)
    return clock


def read(banks: Iterable[Bank]) -> Table:
    """Return the measures and counts of all layers, and start a new window.

    This reads the device once per bank. For a layer with groups, a measure is the mean over
    the groups, and a count is the sum.
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
            measures = {name: _mean(values.get(name, [])[slots]) for name in MEASURES}
            counts = {name: int(sum(values[name][slots])) for name in COUNTS}
            table[layer.name] = {**measures, **counts}
    return table


def due(banks: Iterable[Bank], step: int) -> list[Monitor]:
    """Prepare to measure this step if it is due; return the monitors that measure the step."""
    monitors = [bank.monitor for bank in banks if bank.monitor is not None]
    for monitor in monitors:
        monitor.measuring = step % EVERY == 0
        if monitor.measuring:
            monitor.before_update()
    return [monitor for monitor in monitors if monitor.measuring]


def state(banks: Iterable[Bank]) -> dict[str, Any]:
    """Return the monitors' state, `{"monitor": {layer: {name: view}}}`, or {} without monitors."""
    layers = {
        name: {key: tensor[slots] for key, tensor in bank.monitor.tensors().items()}
        for bank in banks
        if bank.monitor is not None
        for name, slots in bank.slots.items()
    }
    return {"monitor": layers} if layers else {}


def load_state(banks: Iterable[Bank], saved: Mapping[str, Any]) -> None:
    """Start a new window. If there are monitors, load the state that `state` returned."""
    banks = list(banks)
    for bank in banks:
        bank.tally = Tally(dropped(bank.state))
    for name, tensors in state(banks).get("monitor", {}).items():
        saved_tensors: Mapping[str, Tensor] = saved.get("monitor", {}).get(name, {})
        for key in tensors.keys() & saved_tensors.keys():
            tensors[key].copy_(saved_tensors[key])


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean of the finite values; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
