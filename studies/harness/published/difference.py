"""The difference of a measured mean from a published one, with the uncertainty of both.

If a paper does not state an uncertainty, it is unknown, and not zero. Each missing part is
replaced by a cautious value, so that a true replication rarely has the verdict "differs":

* Without a spread, the SD of the published runs is taken to be that of the measured runs.
* If the number of published runs is unknown, it is the smallest possible one: 1, or 2 with a spread.
* A spread of unknown kind is used as a standard error, which gives a wider interval than an SD.

The functions accept numbers and arrays, so that one call tests many samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

Numbers = float | np.ndarray
_SMALLEST_P = -300  # the base-10 logarithm of the smallest p-value that is computed


class Uncertainty(NamedTuple):
    """The uncertainty of a mean.

    Attributes:
        variance: The squared standard error of the mean.
        df: The degrees of freedom of the variance.
    """

    variance: Numbers
    df: float


def of_measured(sd: Numbers, n: int, step: float = 0.0) -> Uncertainty:
    """Return the uncertainty of the mean of n >= 2 measured values with sample SD `sd`.

    An SD below that of the rounding to the metric's grid, step / sqrt(12), is replaced by it.
    """
    return Uncertainty(np.maximum(sd, step / math.sqrt(12)) ** 2 / n, n - 1)


def of_published(
    spread: Numbers | None, kind: str, runs: int | None, measured: Uncertainty
) -> Uncertainty:
    """Return the uncertainty of a published mean.

    Args:
        spread: The published spread, or None.
        kind: `sd`, `se` or `unknown`.
        runs: The number of published runs, or None if it is unknown.
        measured: The uncertainty of the measured mean.
    """
    if spread is None or runs == 1:  # the spread of a single run is not one over runs
        square = measured.variance * (measured.df + 1)
        return Uncertainty(square / (runs or 1), measured.df)
    n = runs or 2
    return Uncertainty(spread**2 / (n if kind == "sd" else 1), n - 1)


def half_width(measured: Uncertainty, published: Uncertainty, level: float) -> np.ndarray:
    """Return half the width of the interval of the difference with the confidence 1 - `level`.

    The critical value is the mean of the two Student quantiles, weighted by the variances (Cochran
    and Cox, Experimental Designs, 1957, section 4.14). With few runs, Welch's degrees of freedom
    give intervals that are too narrow: up to 8% of true replications would lie outside.
    """
    parts = measured, published
    variance = np.asarray(measured.variance + published.variance, dtype=float)
    quantiles = [-special.stdtrit(part.df, level / 2) for part in parts]
    weighted = sum(part.variance * t for part, t in zip(parts, quantiles, strict=True))
    error = np.sqrt(variance)
    return np.divide(weighted, error, out=np.zeros_like(error), where=error > 0)


def p_value(difference: float, measured: Uncertainty, published: Uncertainty) -> float:
    """Return the two-sided p-value: the level at which an end of the interval is 0."""

    def excess(exponent: float) -> float:
        return float(half_width(measured, published, 10**exponent)) - abs(difference)

    if excess(0) >= 0:  # no difference
        return 1.0
    if excess(_SMALLEST_P) <= 0:
        return 10.0**_SMALLEST_P
    return 10.0 ** float(optimize.brentq(excess, _SMALLEST_P, 0))  # type: ignore[arg-type]
