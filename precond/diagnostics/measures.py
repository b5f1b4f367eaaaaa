"""What the preconditioners do to each layer, on request.

>>> optimizer.monitor()  # before training, or at any time
>>> optimizer.diagnostics()["conv1"]["cosine"]  # reads the device, and starts a new window

For each layer, with A the input covariance that the factor in use was made from, and A^ what stands for it there:

    stable_rank         tr A / lambda_max(A)
    top_over_damping    largest eigenvalue of what is damped, over the damping: A (FOOF, NysAct), S (x) A (KFAC, EKFAC;
                        of those two matrices, not of EKFAC's running S), v v^T (Eva)
    residual            |A - A^|_F / |A|_F, for low-rank factors
    staleness           |A_new - A|_F / |A_new|_F when A_new replaced A, at the last refresh
    cosine              of direction and gradient                  mean over the window's measured steps
    update_over_weight  |change of (W, b)| / |(W, b)|              mean over the measured steps that changed it
    dropped             updates of statistics left out since they were not finite                 counts, in the window
    failed              refreshes that left the old factor
    rescued             refreshes whose first factorisation failed, and another succeeded
    fallbacks           steps along the gradient since the direction was not finite

None is what a method does not have, or what nothing was seen of. A window ends with each call of `diagnostics()`. The
counts are kept without being asked for, the rest is not; nothing here changes a number of the training, or reads the
device between two calls. Steps whose number divides by EVERY are measured: 7, which shares no factor with the usual
intervals of 5, 50 and 500, so that new and old factors are seen alike.

Dense A and S are what they are; lambda_max is found by subspace iteration, from below. A low-rank method has no A. It
is seen through PROBES columns z of random signs, of a generator of their own: A z is averaged as the method averages
its sketch, and E z z^T = I makes

    |A - A^|_F^2 = mean |A z - A^ z|^2        tr A = tr A^ + mean z^T (A z - A^ z)
    |A_new - A|_F^2 = mean |A_new z - A z|^2  |A|_F^2 = |A^|_F^2 + mean (|A z|^2 - |A^ z|^2)

all unbiased. The squares on the left have a relative standard deviation of at most sqrt(2 / PROBES), their roots of
about half that: 25 %, for a matrix of rank one. (Where A^ is far from A, |A|_F^2 = mean |A z|^2.) lambda_max is that of
A^, at most A's for a Nystrom matrix: the stable rank is too high where the residual is large. Where the monitor came
later than the statistics, A z averages fewer steps than A.

In data parallel training all ranks call `monitor()`, or none does: A z is a sum over them, and what they find is the
same. A step that a GradScaler skips is not measured; EKFAC, and STEVE with per-example moments, count it as dropped.

Cost: the products A z, 4 N p PROBES operations in each forward that is recorded, for low-rank methods; a copy of A and
S for the others. By `tests/performance/diagnostics.py`, share of the step on one CPU core at batch 64: NysAct 3.6 % for
a convolutional net of 28 to 577 inputs a layer and 7 % for digits/cnn; FOOF 0.8 % and 2.3 %; KFAC 2.2 % for digits/cnn.
`diagnostics()` itself costs a tenth to 1.3 of such steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from precond.bank import Bank
from precond.diagnostics.monitor import COUNTS, MEASURES, Clock, Monitor
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
        columns |= bank.tally.read(dropped(bank.state))
        numbers = torch.stack([column.double() for column in columns.values()]).tolist()
        found = dict(zip(columns, numbers, strict=True))
        for layer in bank.layers:
            slots = bank.slots[layer.name]
            row: dict[str, float | None] = {name: _mean(found.get(name, [])[slots]) for name in MEASURES}
            table[layer.name] = {**row, **{name: int(sum(found[name][slots])) for name in COUNTS}}
    return table


def due(banks: Iterable[Bank], step: int) -> list[Monitor]:
    """The monitors that measure this step, which is about to be made."""
    monitors = [bank.monitor for bank in banks if bank.monitor is not None]
    for monitor in monitors:
        monitor.measuring = step % EVERY == 0
    measuring = [monitor for monitor in monitors if monitor.measuring]
    for monitor in measuring:
        monitor.before_update()
    return measuring


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
        bank.tally.start(dropped(bank.state))
    for name, tensors in state(banks).get("monitor", {}).items():
        seen: Mapping[str, Tensor] = saved.get("monitor", {}).get(name, {})
        for key in tensors.keys() & seen.keys():
            tensors[key].copy_(seen[key])


def _mean(values: Sequence[float]) -> float | None:
    """Mean of those that are finite."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
