"""The power of a paired t-test: seeds for an effect, and the smallest effect for a number of seeds.

An effect is the mean gain divided by the SD of the gains over seeds.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from studies.harness.statistics.paired import ALPHA, POWER

MOST = 1000  # the largest number of seeds that is proposed


def seeds_needed(effect: float, tests: int = 1) -> int | None:
    """Return the number of seeds with which a paired t-test detects an effect with 80% power.

    Args:
        effect: The mean gain divided by the SD of the gains; its sign is ignored.
        tests: The number of tests that share the error of 5%. The test is two-sided at 5% / tests.

    Returns:
        At least 2; None if the number exceeds `MOST`, or if the effect is nan.
    """
    low, high = 1, 2  # too few seeds, perhaps enough seeds
    while not power(high, effect, tests) >= POWER:
        low, high = high, 2 * high
        if low >= MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(middle, effect, tests) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high if high <= MOST else None


def smallest_effect(n: int, tests: int = 1) -> float:
    """Return the effect that a paired t-test with n seeds detects with 80% power.

    Args:
        n: The number of seeds; at least 2.
        tests: The number of tests that share the error of 5%. The test is two-sided at 5% / tests.
    """
    largest = 10 * _critical(n, tests) / np.sqrt(n)
    root = optimize.brentq(lambda effect: power(n, effect, tests) - POWER, 0.0, largest)
    return float(root)  # type: ignore[arg-type]


def power(n: int, effect: float, tests: int = 1) -> float:
    """Return the power of a two-sided paired t-test with n seeds at the level 5% / tests."""
    # SciPy's noncentral t distribution returns nan for few degrees of freedom. Instead, average
    # the power of the normal test over the distribution of the estimated SD.
    limits = _critical(n, tests) * _spread(n - 1)
    noncentrality = abs(effect) * np.sqrt(n)
    upper, lower = stats.norm.sf(limits - noncentrality), stats.norm.cdf(-limits - noncentrality)
    return float((upper + lower).mean())


def _critical(n: int, tests: int) -> float:
    return float(stats.t.isf(ALPHA / tests / 2, n - 1))


@lru_cache
def _spread(df: int) -> np.ndarray:
    """Return quantiles of the ratio of the estimated SD to the true SD."""
    return np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, df) / df)
