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
# Smallest range of the axis, relative to the median of the means. If the median is 0, it is relative
# to 100% for a metric in percent, and otherwise to 1.
SMALLEST = 0.005
INTERVALS = 1.5  # intervals extend the axis by at most this multiple of its range
# Worse means of references extend the axis by at most the first multiple of its range, the ends of
# their intervals by at most the second one.
REFERENCE, ENDS = 1.0, 0.5


def limits(
    arms: Sequence[ArmRow],
    metric: str,
    *,
    references: Sequence[ArmRow] = (),
    seeds: Mapping[str, Sequence[float]] | None = None,
) -> tuple[float, float]:
    """Return the limits of the axis.

    They contain the means and intervals of the arms and the values of their seeds, except those of
    arms with a very bad mean, and except the ends of very wide intervals. They contain the mean of a
    reference, except if it is much worse than the arms.

    Args:
        arms: The arms with a result; the references if no other arm has one.
        metric: The metric.
        references: The references with a result.
        seeds: The values of the completed trials by arm.
    """
    show = unit(metric)
    sign = 1 if higher_is_better(metric) else -1  # after multiplication, larger values are better

    def values(arm: ArmRow, *names: str) -> list[float]:
        numbers = [sign * show.scale * arm[name] for name in names]
        return [number for number in numbers if math.isfinite(number)]

    means = [sign * show.scale * arm["mean"] for arm in arms]
    middle, top = median(means), max(means)
    smallest = SMALLEST * (abs(middle) or (100.0 if show.percent else 1.0))
    worst = middle - BEYOND_MEDIAN * max(top - middle, smallest)
    bottom = max(min(means), worst)
    near = [arm for arm, mean in zip(arms, means, strict=True) if mean >= bottom]
    results = [
        sign * show.scale * v for arm in near for v in (seeds or {}).get(arm.get("arm", ""), ())
    ]
    results = [value for value in results if math.isfinite(value)]
    low, high = min([bottom, *results]), max([top, *results])
    room = INTERVALS * max(high - low, smallest)
    ends = [end for arm in near for end in values(arm, "ci_lo", "ci_hi")]
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    room = REFERENCE * max(high - low, smallest)
    others = [mean for arm in references for mean in values(arm, "mean")]
    others = [mean for mean in others if mean >= min(low - room, worst)]
    low, high = min([low, *others]), max([high, *others])
    room = ENDS * max(high - low, smallest)
    ends = [end for arm in references for end in values(arm, "ci_lo", "ci_hi")]
    ends = [end for end in ends if low - room <= end <= high + room]
    low, high = min([low, *ends]), max([high, *ends])
    low, high = _widened(low, high, smallest, percent=show.percent, sign=sign)
    margin = 0.04 * (high - low)
    low, high = sorted([sign * (low - 2 * margin), sign * (high + margin)])
    return low, high


def _widened(
    low: float, high: float, smallest: float, *, percent: bool, sign: int
) -> tuple[float, float]:
    """Return limits, multiplied by `sign`, that are at least `smallest` apart.

    An axis in percent is between 0 and 100%. Other axes of positive values do not extend below 0.
    """
    floor, ceiling = sorted([0.0, sign * (100.0 if percent else math.inf)])
    if percent:
        low, high = max(low, floor), min(high, ceiling)
    if (missing := smallest - (high - low)) <= 0:
        return low, high
    if not floor <= low <= high <= ceiling:
        floor, ceiling = -math.inf, math.inf
    low = max(low - missing / 2, floor)
    high = min(low + smallest, ceiling)
    return min(low, high - smallest), high
