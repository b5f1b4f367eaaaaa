"""Time two contestants in turns, and compute the cost of one relative to the other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from trainables.cost.contestants import (
    MIXED,
    PLAIN,
    REFRESH,
    STATISTICS,
    Batch,
    Clock,
    Contestant,
    device_of,
    timed,
)
from trainables.cost.intervals import median

BASE = "base"


def race(
    base: Contestant, other: Contestant, batch: Batch, blocks: int, repeat: int, clock: Clock
) -> dict[str, Any]:
    """Time `other` relative to `base` in blocks; the first block is discarded.

    Args:
        base: The baseline.
        other: The contestant to compare.
        batch: The batch of every step.
        blocks: Number of measured blocks.
        repeat: Number of plain steps that are timed together; half this number of other steps.
        clock: Returns the seconds of a clock.

    Returns:
        The `ratio` of the mean seconds per step, and the `step_seconds` and `base_step_seconds`, as
        medians with intervals; the ratio of each block as `ratios`; the `weight` and the `seconds`
        of each kind of step in `kinds`; and the `shares` of the additional time by kind, as
        fractions of a step of the base.
    """
    rows = [_block(base, other, batch, repeat, clock) for _ in range(blocks + 1)][1:]
    weights = {kind.name: kind.weight for kind in other.kinds}
    means = [
        sum(weights[name] * seconds for name, seconds in row.items() if name in weights)
        for row in rows
    ]
    bases = [row[BASE] for row in rows]
    ratios = [mean / base_mean for mean, base_mean in zip(means, bases, strict=True)]
    return {
        "ratio": asdict(median(ratios)),
        "ratios": ratios,
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
    """Return the seconds of a step of `base`, and of each kind of `other`'s steps, in one block.

    The order is B X X B. The second X takes its kinds of steps in reverse order, so that a linear
    drift of the machine's speed cancels.
    """
    parts = [(BASE, base, base.kinds[0]), *((kind.name, other, kind) for kind in other.kinds)]
    seconds = dict.fromkeys((name for name, _, _ in parts), 0.0)
    for name, contestant, kind in [*parts, *reversed(parts)]:
        steps = repeat if kind.name in (BASE, PLAIN) else max(1, repeat // 2)
        seconds[name] += contestant.seconds(kind, batch, steps, clock) / 2
    return seconds


def _shares(rows: list[dict[str, float]], weights: Mapping[str, float]) -> dict[str, Any]:
    """Return the additional times of applying, statistics and refreshes, relative to a base step.

    The time that statistics add, for example, is the difference between a statistics step and a
    plain step, multiplied by the share of statistics and refresh steps, which both record
    statistics.
    """
    if MIXED in weights:
        return {}
    shares, before = {}, BASE
    names = [name for name in (PLAIN, STATISTICS, REFRESH) if name in weights]
    for index, name in enumerate(names):
        frequency = sum(weights[later] for later in names[index:])
        label = "apply" if name == PLAIN else name if before != BASE else f"apply and {name}"
        additional = [frequency * (row[name] - row[before]) / row[BASE] for row in rows]
        shares[label] = asdict(median(additional))
        before = name
    return shares


@torch.no_grad()
def evaluation_seconds(contestant: Contestant, batch: Batch, clock: Clock) -> float:
    """Return the seconds per example of a forward pass in evaluation mode.

    This is the median of five passes; a pass before them is discarded.
    """
    inputs, device = batch[0], device_of(batch)
    contestant.model.eval()
    times = [timed(lambda: contestant.model(inputs), device, clock) for _ in range(6)]
    contestant.model.train()
    return statistics.median(times[1:]) / len(tree_leaves(inputs)[0])
