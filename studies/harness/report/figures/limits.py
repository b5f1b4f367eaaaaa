"""The limits of the vertical axis of the figure of an ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from studies.harness.evidence.metrics import higher_is_better, unit

ArmRow = Mapping[Any, Any]  # a row of `Evidence.arms`
# The axis extends from the median of the means to worse values by at most this multiple of the
# distance between the median and the best mean, so that very bad levels do not compress the rest.
BEYOND_MEDIAN = 4
SMALLEST = 0.005  # smallest range of the axis, relative to the median of the means
INTERVALS = 1.5  # intervals and seeds extend the axis by at most this multiple of its range
# Means of references extend the axis by at most the first multiple of its range, the ends of their
# intervals by at most the second one.
REFERENCE, ENDS = 1.0, 0.5


def limits(
    arms: Sequence[ArmRow],
    metric: str,
    *,
    references: Sequence[ArmRow] = (),
    seeds: Mapping[str, Sequence[float]] | None = None,
) -> tuple[float, float]:
    """Return the limits of the axis.

    They contain the means, intervals and seeds of the arms, except very bad means and the ends of
    very wide intervals. They contain the mean of a reference if it is near the arms.

    Args:
        arms: The arms with a result; the references if no other arm has one.
        metric: The metric.
        references: The references with a result.
        seeds: The values of the completed trials by arm.
    """
    scale, ceiling = unit(metric).scale, math.inf
    sign = 1 if higher_is_better(metric) else -1  # after multiplication, larger values are better
    if unit(metric).percent:
        ceiling = 100.0 if sign > 0 else 0.0
    means = [sign * scale * arm["mean"] for arm in arms]
    middle, top = median(means), max(means)
    smallest = SMALLEST * abs(middle)
    bottom = max(min(means), middle - BEYOND_MEDIAN * max(top - middle, smallest))
    ends = [
        sign * scale * value
        for arm, mean in zip(arms, means, strict=True)
        for value in (arm["ci_lo"], arm["ci_hi"], *(seeds or {}).get(arm.get("arm", ""), ()))
        if mean >= bottom and math.isfinite(value)
    ]
    room = INTERVALS * max(top - bottom, smallest)
    low = max(min([bottom, *ends]), bottom - room)
    high = min(max([top, *ends]), top + room)
    for names, share in ((("mean",), REFERENCE), (("ci_lo", "ci_hi"), ENDS)):
        room = share * max(high - low, smallest)
        values = [sign * scale * arm[name] for arm in references for name in names]
        near = [value for value in values if low - room <= value <= high + room]
        low, high = min([low, *near]), max([high, *near])
    high = min(high, ceiling)
    margin = 0.04 * max(high - low, smallest)
    low, high = sorted([sign * (low - 2 * margin), sign * (high + margin)])
    return low, high
