"""Means over seeds with Student t-intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """The mean of a sample with its spread.

    Attributes:
        n: Number of values.
        mean: Their mean; nan without values.
        sd: Sample standard deviation (n - 1 in the denominator); nan below two values.
        ci_lo: Lower end of the 95% Student t-interval of the mean; nan below two values.
        ci_hi: Upper end of the interval.
    """

    n: int
    mean: float
    sd: float
    ci_lo: float
    ci_hi: float


def summarize(values: Iterable[float]) -> Summary:
    """Return the mean, sample standard deviation and 95% t-interval of independent values."""
    sample = np.array(list(values), dtype=float)
    n = len(sample)
    mean = float(sample.mean()) if n else math.nan
    if n < 2:
        return Summary(n, mean, math.nan, math.nan, math.nan)
    sd = float(sample.std(ddof=1))
    half = float(half_width(n, sd))
    return Summary(n, mean, sd, mean - half, mean + half)


def half_width(n: np.ndarray | int, sd: np.ndarray | float) -> np.ndarray:
    """Return half the width of the 95% t-interval of the mean of n values with sample SD `sd`."""
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(n - 1, 1))
    return quantile * sd / np.sqrt(np.maximum(n, 1))
