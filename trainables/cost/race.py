"""Two contestants timed in turns: the cost of one relative to the other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from trainables.cost.contestants import (
    MIXED,
    PLAIN,
    REFRESH,
    STATISTICS,
    Batch,
    Clock,
    Contestant,
    timed,
)
from trainables.cost.intervals import median

BASE = "base"


def race(
    base: Contestant, other: Contestant, batch: Batch, blocks: int, repeat: int, clock: Clock
) -> dict[str, Any]:
    """Time one contestant against another; `blocks` are measured after one that is discarded.

    Returns:
        `ratio` and both `step_seconds` (medians with intervals), seconds and weight of each kind, and the `shares`.
    """
    rows = [_block(base, other, batch, repeat, clock) for _ in range(blocks + 1)][1:]
    weights = {kind.name: kind.weight for kind in other.kinds}
    means = [
        sum(weights[name] * seconds for name, seconds in row.items() if name in weights)
        for row in rows
    ]
    bases = [row[BASE] for row in rows]
    return {
        "ratio": asdict(median([mean / b for mean, b in zip(means, bases, strict=True)])),
        "step_seconds": asdict(median(means)),
        "base_step_seconds": asdict(median(bases)),
        "kinds": {
            name: {"weight": weight, "seconds": statistics.median(row[name] for row in rows)}
            for name, weight in weights.items()
        },
        "shares": _shares(rows, weights),
    }


def _block(
    base: Contestant, other: Contestant, batch: Batch, repeat: int, clock: Clock
) -> dict[str, float]:
    """Return the seconds per step of the base and of each kind of the other: B X X B, the second X in reverse."""
    parts = [(BASE, base, base.kinds[0]), *((kind.name, other, kind) for kind in other.kinds)]
    seconds = dict.fromkeys((name for name, _, _ in parts), 0.0)
    for name, contestant, kind in [*parts, *reversed(parts)]:
        times = repeat if kind.name in (BASE, PLAIN) else max(1, repeat // 2)
        seconds[name] += contestant.seconds(kind, batch, times, clock) / 2
    return seconds


def _shares(rows: list[dict[str, float]], weights: Mapping[str, float]) -> dict[str, Any]:
    """Return what each kind of step adds to the kind before, as a fraction of a step of the base."""
    if MIXED in weights:
        return {}
    shares, before, names = (
        {},
        BASE,
        [name for name in (PLAIN, STATISTICS, REFRESH) if name in weights],
    )
    for index, name in enumerate(names):
        often = sum(weights[later] for later in names[index:])
        label = "apply" if name == PLAIN else name if before != BASE else f"apply and {name}"
        shares[label] = asdict(
            median([often * (row[name] - row[before]) / row[BASE] for row in rows])
        )
        before = name
    return shares


@torch.no_grad()
def evaluation_seconds(contestant: Contestant, batch: Batch, clock: Clock) -> float:
    """Return the seconds per example of a forward in evaluation mode: the median of five batches after a first one."""
    images = batch[0]
    contestant.model.eval()
    times = [timed(lambda: contestant.model(images), images.device, clock) for _ in range(6)]
    contestant.model.train()
    return statistics.median(times[1:]) / len(images)
