"""Two contestants timed in turns: the cost of one over the other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from trainables.cost.contestants import MIXED, PLAIN, REFRESH, STATISTICS, Contestant, synchronize
from trainables.cost.intervals import median

Batch = tuple[Tensor, Tensor]
Clock = Callable[[], float]
BASE = "base"


def race(base: Contestant, other: Contestant, batch: Batch, blocks: int, repeat: int, clock: Clock) -> dict[str, Any]:
    """Time one contestant against another; `blocks` are measured after one that is discarded.

    Returns:
        `ratio` and both `step_seconds` (medians with intervals), seconds and weight of each kind, and the `shares`.
    """
    rows = [_block(base, other, batch, repeat, clock) for _ in range(blocks + 1)][1:]
    weights = {kind.name: kind.weight for kind in other.kinds}
    means = [sum(weights[name] * seconds for name, seconds in row.items() if name in weights) for row in rows]
    bases = [row[BASE] for row in rows]
    return {
        "ratio": asdict(median([mean / one for mean, one in zip(means, bases, strict=True)])),
        "step_seconds": asdict(median(means)),
        "base_step_seconds": asdict(median(bases)),
        "kinds": {
            name: {"weight": weight, "seconds": statistics.median(row[name] for row in rows)}
            for name, weight in weights.items()
        },
        "shares": _shares(rows, weights),
    }


def _block(base: Contestant, other: Contestant, batch: Batch, repeat: int, clock: Clock) -> dict[str, float]:
    """Seconds per step, of the base and of each kind of the other: B X X B, the second X in reverse."""
    seconds: dict[str, float] = {BASE: 0.0, **{kind.name: 0.0 for kind in other.kinds}}
    for forwards in (True, False):
        parts = [(kind.name, other, kind) for kind in other.kinds]
        parts.insert(0, (BASE, base, base.kinds[0]))
        for name, contestant, kind in parts if forwards else reversed(parts):
            times = repeat if kind.name in (BASE, PLAIN) else max(1, repeat // 2)
            seconds[name] += contestant.seconds(kind, batch, times, clock) / 2
    return seconds


def _shares(rows: list[dict[str, float]], weights: Mapping[str, float]) -> dict[str, Any]:
    """Of a step of the base: what the kinds of steps add, each on top of the one before."""
    if MIXED in weights:
        return {}
    shares, before, names = {}, BASE, [name for name in (PLAIN, STATISTICS, REFRESH) if name in weights]
    for index, name in enumerate(names):
        often = sum(weights[later] for later in names[index:])
        label = "apply" if name == PLAIN else name if before != BASE else f"apply and {name}"
        shares[label] = asdict(median([often * (row[name] - row[before]) / row[BASE] for row in rows]))
        before = name
    return shares


@torch.no_grad()
def evaluation_seconds(contestant: Contestant, batch: Batch, clock: Clock) -> float:
    """Seconds per example of a forward in evaluation mode: the median of five batches."""
    contestant.model.eval()
    times = []
    for _ in range(6):
        synchronize(batch[0].device)
        start = clock()
        contestant.model(batch[0])
        synchronize(batch[0].device)
        times.append(clock() - start)
    contestant.model.train()
    return statistics.median(times[1:]) / len(batch[0])
