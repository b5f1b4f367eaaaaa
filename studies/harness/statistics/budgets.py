"""The best score of k configurations by k, and how much of a winner's score was luck.

The K scores of a search are treated as exchangeable, which holds for random and quasi-random samplers only: a caller
that passes TPE's or ASHA's must print that beside the curve.
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
    """Return the best score among k of the K configurations, drawn without replacement: exact, by order statistics.

    With the scores sorted from worst to best, the i-th is the best of a draw with probability
    C(i - 1, k - 1) / C(K, k). A failed configuration (nan) uses up budget like any other; a draw of nothing but
    failures has no best score, and its probability has a separate column.

    Args:
        scores: One per configuration.
        higher: True if larger is better.

    Returns:
        A row for each k = 1 ... K: `k mean lo median hi none`; mean and quantiles (lo and hi enclose 90%) are over
        draws with a score, and `none` is the probability of a draw without.
    """
    values = np.asarray(scores, dtype=float)
    failed, total = int(np.isnan(values).sum()), len(values)
    scored = np.sort(values[~np.isnan(values)])
    if not higher:
        scored = scored[::-1]
    rank = np.arange(1, total + 1)
    weights = (
        np.full(total, 1 / total) if total else np.empty(0)
    )  # of the i-th worst; failures lead
    rows = []
    for k in range(1, total + 1):
        none, chances = float(weights[:failed].sum()), weights[failed:]
        if chances.any():
            share = chances / chances.sum()
            lo, median, hi = (
                _quantile(scored, share, q) for q in ((1 - BAND) / 2, 0.5, (1 + BAND) / 2)
            )
            spread = (
                float(share @ scored),
                min(lo, hi),
                median,
                max(lo, hi),
            )  # the order is from worst to best
        else:
            spread = (math.nan,) * 4
        rows.append((k, *spread, none))
        # C(i - 1, k) / C(K, k + 1) from C(i - 1, k - 1) / C(K, k): never a large number.
        weights = weights * np.maximum(rank - k, 0) * (k + 1) / (k * max(total - k, 1))
    return pd.DataFrame(rows, columns=["k", "mean", "lo", "median", "hi", "none"])


def overtakes(curve: pd.DataFrame, other: pd.DataFrame, higher: bool = True) -> int | None:
    """Return the smallest k from which a `best_of_k` mean stays ahead of another's; None if it does not end ahead.

    Only budgets that both curves have are compared.
    """
    size = min(len(curve), len(other))
    lead = curve["mean"].to_numpy()[:size] - other["mean"].to_numpy()[:size]
    behind = np.flatnonzero(~((lead if higher else -lead) > 0))
    start = int(behind[-1]) + 2 if len(behind) else 1
    return start if start <= size else None


@dataclass(frozen=True)
class Shrinkage:
    """A winner's score when it was chosen, beside its mean on fresh seeds.

    Attributes:
        score: The tuning score of the winner.
        fresh: Its results on seeds that the search did not use.
        shrinkage: score - fresh mean; positive when the search flattered a metric for which larger is better.
        ci_lo: Lower end of its 95% t-interval, from the fresh seeds' spread alone; nan below two seeds.
        ci_hi: Its upper end.
    """

    score: float
    fresh: Summary
    shrinkage: float
    ci_lo: float
    ci_hi: float


def shrinkage(score: float, fresh: Sequence[float]) -> Shrinkage:
    """Return how much of a tuning score is gone on fresh seeds."""
    summary = summarize(fresh)
    return Shrinkage(
        score, summary, score - summary.mean, score - summary.ci_hi, score - summary.ci_lo
    )


def _quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    """Return the first value, in the given order, whose cumulative weight reaches q."""
    return float(values[min(np.searchsorted(np.cumsum(weights), q - 1e-12), len(values) - 1)])
