"""The median of a few measurements, with an interval that assumes nothing about their distribution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 6  # values for which the smallest and the largest enclose the median with 95 percent


@dataclass(frozen=True)
class Median:
    """A median with its interval."""

    median: float
    low: float
    high: float


def median(values: Sequence[float]) -> Median:
    """Return the median, and two order statistics that enclose the true median with at least 95 percent.

    A value lies below the true median as often as above it, so the number of values below is binomial: the k-th
    smallest and the k-th largest miss the median on either side with probability P(Binomial(n, 1/2) < k) each.

    Raises:
        ValueError: Fewer than `FEWEST` values.
    """
    if len(values) < FEWEST:
        raise ValueError(f"{len(values)} values: 95 percent need at least {FEWEST}")
    ordered, n, k = sorted(values), len(values), 0
    below = 0.0
    while (below := below + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    return Median(statistics.median(values), ordered[k - 1], ordered[n - k])
