"""Means over seeds with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEW = 10  # errors or successes per value, below which a t-interval is too short


@dataclass(frozen=True)
class Summary:
    """The mean of a sample with its spread.

    Attributes:
        n: Number of values.
        mean: Their mean; nan without values.
        sd: Sample standard deviation (n - 1 in the denominator); nan below two values.
        ci_lo: Lower end of the 95% interval of the mean; nan below two values.
        ci_hi: Upper end of the interval.
    """

    n: int
    mean: float
    sd: float
    ci_lo: float
    ci_hi: float


def summarize(values: Iterable[float], step: float = 0.0) -> Summary:
    """Return the mean, sample standard deviation and 95% interval of independent finite values.

    The interval is Student's t-interval. It is too short for accuracies near 0 or 1, most of all if
    all values are equal. If the values have on average fewer than `FEW` errors (or successes), the
    interval is extended to that of the pooled examples (Clopper and Pearson, 1934).

    Args:
        values: The values.
        step: For a share of examples, such as an accuracy: 1 / number of examples. Otherwise 0.
    """
    sample = np.array(list(values), dtype=float)
    n = len(sample)
    mean = float(sample.mean()) if n else math.nan
    if n < 2:
        return Summary(n, mean, math.nan, math.nan, math.nan)
    sd = float(sample.std(ddof=1))
    half = float(half_width(n, sd))
    low, high = mean - half, mean + half
    if step and min(mean, 1 - mean) < FEW * step:
        pooled = _pooled_interval(round(mean * n / step), round(n / step))
        low, high = max(0.0, min(low, pooled[0])), min(1.0, max(high, pooled[1]))
    return Summary(n, mean, sd, low, high)


def _pooled_interval(successes: int, examples: int) -> tuple[float, float]:
    """Return the exact 95% interval of a probability."""
    errors, tail = examples - successes, (1 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, successes, errors + 1) if successes else 0.0
    high = stats.beta.isf(tail, successes + 1, errors) if errors else 1.0
    return float(low), float(high)


def half_width(n: np.ndarray | int, sd: np.ndarray | float) -> np.ndarray:
    """Return half the width of the 95% t-interval of the mean of n values with sample SD `sd`."""
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(n - 1, 1))
    return quantile * sd / np.sqrt(np.maximum(n, 1))
