"""Statistics of a search: the best score of k configurations, and the bias of the winner's score.

The K scores of a search are treated as exchangeable. This holds only for random and quasi-random
samplers. A caller that passes the scores of TPE or ASHA must state this next to the curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from studies.harness.statistics.intervals import Summary, summarize

BAND = 0.90


def best_of_k(scores: Sequence[float], higher: bool = True) -> pd.DataFrame:
    """Return the distribution of the best score among k of the K configurations.

    The k configurations are drawn without replacement. The result is exact (order statistics):
    with the scores sorted from worst to best, the i-th score is the best of a draw with
    probability C(i - 1, k - 1) / C(K, k). A failed configuration (nan) uses budget like any other.
    If all k configurations failed, the draw has no score.

    Args:
        scores: One score per configuration.
        higher: True if larger scores are better.

    Returns:
        One row for each k = 1 ... K with the columns `k mean lo median hi none`. The mean and the
        quantiles (lo and hi enclose 90%) are over the draws with a score; `none` is the
        probability of a draw without a score.
    """
    values = np.asarray(scores, dtype=float)
    failed, total = int(np.isnan(values).sum()), len(values)
    scored = np.sort(values[~np.isnan(values)])
    if not higher:
        scored = scored[::-1]
    rank = np.arange(1, total + 1)
    # The probability that the i-th worst configuration is the best of a draw. The failed
    # configurations are the worst ones.
    weights = np.full(total, 1 / total) if total else np.empty(0)
    rows = []
    for k in range(1, total + 1):
        none, chances = float(weights[:failed].sum()), weights[failed:]
        if chances.any():
            share = chances / chances.sum()
            quantiles = ((1 - BAND) / 2, 0.5, (1 + BAND) / 2)
            lo, median, hi = (_quantile(scored, share, q) for q in quantiles)
            # `scored` descends if smaller scores are better, and lo is then above hi.
            spread = (float(share @ scored), min(lo, hi), median, max(lo, hi))
        else:
            spread = (math.nan,) * 4
        rows.append((k, *spread, none))
        # C(i - 1, k) / C(K, k + 1) from C(i - 1, k - 1) / C(K, k), which avoids large numbers.
        weights = weights * np.maximum(rank - k, 0) * (k + 1) / (k * max(total - k, 1))
    return pd.DataFrame(rows, columns=["k", "mean", "lo", "median", "hi", "none"])


def overtakes(curve: pd.DataFrame, other: pd.DataFrame, higher: bool = True) -> int | None:
    """Return the smallest k from which on the mean of `curve` is better than that of `other`.

    Both are tables of `best_of_k`. Only the k that both contain are compared. Returns None if
    `curve` is not better at the largest of these k.
    """
    size = min(len(curve), len(other))
    lead = curve["mean"].to_numpy()[:size] - other["mean"].to_numpy()[:size]
    behind = np.flatnonzero(~((lead if higher else -lead) > 0))
    start = int(behind[-1]) + 2 if len(behind) else 1
    return start if start <= size else None


@dataclass(frozen=True)
class Shrinkage:
    """The tuning score of a winner compared with its mean on fresh seeds.

    Attributes:
        score: The tuning score of the winner.
        fresh: Summary of its results on seeds that the search did not use.
        shrinkage: score - fresh mean, or the negative of it if smaller values are better. A
            positive value means that the search overestimated the winner.
        ci_lo: Lower end of the 95% t-interval of the shrinkage, from the spread of the fresh
            seeds alone; nan below two seeds.
        ci_hi: Upper end of the interval.
    """

    score: float
    fresh: Summary
    shrinkage: float
    ci_lo: float
    ci_hi: float


def shrinkage(score: float, fresh: Sequence[float], higher: bool = True) -> Shrinkage:
    """Return how much better a tuning score is than the mean on fresh seeds.

    Args:
        score: The tuning score of the winner.
        fresh: Its results on seeds that the search did not use.
        higher: True if larger values are better.
    """
    summary = summarize(fresh)
    mean, low, high = (score - value for value in (summary.mean, summary.ci_hi, summary.ci_lo))
    if not higher:
        mean, low, high = -mean, -high, -low
    return Shrinkage(score, summary, mean, low, high)


def _quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    """Return the first value, in the given order, whose cumulative weight reaches q."""
    return float(values[min(np.searchsorted(np.cumsum(weights), q - 1e-12), len(values) - 1)])
