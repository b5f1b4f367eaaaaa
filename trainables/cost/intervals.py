"""The median of a few measurements, with a distribution-free 95% interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from precond.counts import counted

FEWEST = 6  # with fewer values, even their full range is not a 95% interval of the median


@dataclass(frozen=True)
class Median:
    """A median with the ends of its 95% interval."""

    median: float
    low: float
    high: float


def median(values: Sequence[float]) -> Median:
    """Return the sample median and its 95% interval, whose ends are order statistics.

    Each value is below the true median with probability 1/2, so the number of values below the true
    median is binomial. The true median is below the k-th smallest value with probability
    P(Binomial(n, 1/2) < k), and above the k-th largest value with the same probability.

    Raises:
        ValueError: Fewer than `FEWEST` values.
    """
    if len(values) < FEWEST:
        raise ValueError(
            f"{counted(len(values), 'value')}: a 95% interval requires at least {FEWEST}"
        )
    ordered, n, k = sorted(values), len(values), 0
    below = 0.0
    while (below := below + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    return Median(statistics.median(values), ordered[k - 1], ordered[n - k])
