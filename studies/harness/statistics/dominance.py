"""Probabilities that a candidate has better results, and shorter steps, than a baseline."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from studies.harness.statistics.intervals import CONFIDENCE

Interval = tuple[float, float, float]
"""A positive median with the lower and the upper end of its 95% interval."""


def probability_better(gains: np.ndarray) -> float:
    """Return the posterior probability that the mean gain is positive; nan below two gains.

    Gains are normal with a right-Haar prior; the probability is then 1 - p of the one-sided t-test.
    If any gain is infinite, the function returns the probability that positive gains are more
    frequent than negative gains, with the prior Beta(1/2, 1/2). It is not corrected for repeated
    tests and earlier attempts.

    Args:
        gains: [n] without nan.
    """
    if len(gains) < 2:
        return math.nan
    if np.isinf(gains).any():
        wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
        return float(stats.beta.sf(0.5, wins + 0.5, losses + 0.5))
    spread = float(gains.std(ddof=1))
    if not spread:
        return 0.5 if not gains[0] else float(gains[0] > 0)
    return float(stats.t.cdf(gains.mean() * math.sqrt(len(gains)) / spread, len(gains) - 1))


def probability_shorter(first: Interval, second: Interval) -> float:
    """Return the probability that the first time is shorter than the second.

    The logarithms of the two medians are assumed to be independent and normal, with the standard
    errors that follow from the widths of their intervals.
    """
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    errors = [math.log(high / low) / (2 * z) for _, low, high in (first, second)]
    difference, error = math.log(second[0] / first[0]), math.hypot(*errors)
    if not error:
        return 0.5 if not difference else float(difference > 0)
    return float(stats.norm.cdf(difference / error))
