"""The probability that a candidate dominates a baseline: better results and shorter steps."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from studies.harness.statistics.intervals import CONFIDENCE

Interval = tuple[float, float, float]
"""A positive median with the lower and the upper end of its 95% interval."""


def probability_better(gains: np.ndarray) -> float:
    """Return the posterior probability that the mean gain is positive; nan below two gains.

    The prior is the right-Haar prior of normal gains, so that it is 1 - p of the one-sided t-test.
    If gains are infinite, it is the probability that more than half of the gains are positive, with
    the prior Beta(1/2, 1/2). It is not corrected for looks and earlier attempts.

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

    The logarithms of the two independent medians are taken as normal, with the standard errors that
    their intervals imply.
    """
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    errors = [math.log(high / low) / (2 * z) for _, low, high in (first, second)]
    difference, error = math.log(second[0] / first[0]), math.hypot(*errors)
    if not error:
        return 0.5 if not difference else float(difference > 0)
    return float(stats.norm.cdf(difference / error))
