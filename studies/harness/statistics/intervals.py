"""Means over seeds with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

CONFIDENCE = 0.95
FEW = 10  # errors or successes per value, below which the interval is extended
Bounds = tuple[float, float]
"""The ends of the range of a metric: (0, 1), (0, inf) or `UNBOUNDED`."""
UNBOUNDED: Bounds = (-math.inf, math.inf)


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


def summarize(values: Iterable[float], step: float = 0.0, bounds: Bounds = UNBOUNDED) -> Summary:
    """Return the mean, sample standard deviation and 95% interval of independent finite values.

    The interval is that of `mean_interval`. It is too short for accuracies very near 0 or 1, most
    of all if all values are equal. If the values have on average fewer than `FEW` errors (or
    successes), the interval is extended to that of the pooled examples (Clopper and Pearson, 1934).

    Args:
        values: The values.
        step: For a share of examples, such as an accuracy: 1 / number of examples. Otherwise 0.
        bounds: The range of the values. If a value is outside, the interval is the t-interval.
    """
    sample = np.array(list(values), dtype=float)
    n = len(sample)
    mean = float(sample.mean()) if n else math.nan
    if n < 2:
        return Summary(n, mean, math.nan, math.nan, math.nan)
    sd = float(sample.std(ddof=1))
    low, high = map(float, mean_interval(n, mean, sd, effective_bounds(sample, bounds)))
    if step and 0 <= mean <= 1 and min(mean, 1 - mean) < FEW * step:
        pooled = _pooled_interval(round(mean * n / step), round(n / step))
        low, high = max(0.0, min(low, pooled[0])), min(1.0, max(high, pooled[1]))
    return Summary(n, mean, sd, low, high)


def _pooled_interval(successes: int, examples: int) -> tuple[float, float]:
    """Return the exact 95% interval of a probability."""
    errors, tail = examples - successes, (1 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, successes, errors + 1) if successes else 0.0
    high = stats.beta.isf(tail, successes + 1, errors) if errors else 1.0
    return float(low), float(high)


def effective_bounds(values: np.ndarray, bounds: Bounds) -> Bounds:
    """Return the bounds if no value is outside them, otherwise `UNBOUNDED`."""
    outside = (values < bounds[0]) | (values > bounds[1])
    return UNBOUNDED if np.any(outside) else bounds


def mean_interval(
    n: np.ndarray | int, mean: np.ndarray | float, sd: np.ndarray | float, bounds: Bounds
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95% interval of a mean, which are within the bounds of the values.

    It is the t-interval of the logarithm of the mean for the bounds (0, inf), and that of its
    logit for (0, 1), transformed back (delta method). For `UNBOUNDED` values, and for a mean at a
    bound, it is the t-interval of the mean.

    Args:
        n: Number of values.
        mean: Their mean.
        sd: Their sample standard deviation.
        bounds: The bounds of the values.

    Raises:
        ValueError: The bounds are of no known scale.
    """
    if bounds not in (UNBOUNDED, (0, 1), (0, math.inf)):
        raise ValueError(f"bounds = {bounds}: must be (0, 1), (0, inf) or (-inf, inf)")
    half = half_width(n, sd)
    plain = mean - half, mean + half
    if bounds == UNBOUNDED:
        return plain
    with np.errstate(divide="ignore", invalid="ignore"):
        if bounds == (0, 1):
            centre, width = special.logit(mean), half / (mean * (1 - np.asarray(mean)))
            ends = special.expit(centre - width), special.expit(centre + width)
        else:
            factor = np.exp(half / mean)
            ends = mean / factor, mean * factor
    inside = (mean > np.float64(bounds[0])) & (mean < np.float64(bounds[1]))
    low, high = (np.where(inside, *pair) for pair in zip(ends, plain, strict=True))
    return np.minimum(low, mean), np.maximum(high, mean)  # without the error of the transformation


def half_width(n: np.ndarray | int, sd: np.ndarray | float) -> np.ndarray:
    """Return half the width of the 95% t-interval of the mean of n values with sample SD `sd`."""
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(n - 1, 1))
    return quantile * sd / np.sqrt(np.maximum(n, 1))
