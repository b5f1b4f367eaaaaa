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

from studies.harness.statistics.intervals import CONFIDENCE, Summary, summarize

BAND = 0.90
DRAWS = 10_000  # relabelings of the permutation test


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
    rows = []
    for k, weights in enumerate(_weights(total)[:total], start=1):  # the failed ones are the worst
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
    return pd.DataFrame(rows, columns=["k", "mean", "lo", "median", "hi", "none"])


@dataclass(frozen=True)
class Lead:
    """The number of configurations from which an optimizer stays better than another one.

    Attributes:
        k: The smallest k from which on the expected best of k configurations is better.
        certain: The smallest k from which on it is significantly better; None if there is none.
    """

    k: int
    certain: int | None


def overtakes(
    scores: Sequence[float], other: Sequence[float], higher: bool = True, tests: int = 1
) -> Lead | None:
    """Return the k from which on the mean best score of k configurations is better.

    Only the k that both optimizers have are compared. An optimizer whose draws more often contain
    no score at k is not better there. Returns None if `scores` is not better at the largest k.

    At each k, a two-sided permutation test at the level 5% / `tests` compares the two optimizers:
    it assigns all configurations to them at random (`DRAWS` times, fixed seed). The tests start at
    the largest k and stop at the first that is not significant, so that their number needs no
    correction. If all configurations are exchangeable, they find a difference in at most 5% /
    `tests` of samples. A bootstrap of the configurations is not used, because the best scores
    dominate each resample: with a threshold of 95% of the resamples, it finds a difference in 22%
    of comparisons of equal optimizers.

    Args:
        scores: One score per configuration; nan is a failed configuration.
        other: The scores of the other optimizer.
        higher: True if larger scores are better.
        tests: The number of pairs of optimizers that are compared.
    """
    sign = 1 if higher else -1
    first, second = (sign * np.asarray(values, dtype=float) for values in (scores, other))
    size = min(len(first), len(second))
    (mean, none), (other_mean, other_none) = (
        _expected_best(values, size) for values in (first, second)
    )
    lead = np.where(none <= other_none + 1e-12, mean - other_mean, -math.inf)
    k = _from_then_on(lead > 0)
    if k is None:
        return None
    pool = np.tile(np.concatenate([first, second]), (DRAWS, 1))
    drawn = np.random.default_rng(0).permuted(pool, axis=1)
    parts = drawn[:, : len(first)], drawn[:, len(first) :]
    leads = np.subtract(*(_expected_best(part, size)[0] for part in parts))
    smaller = np.sum(np.abs(leads) < lead - 1e-12, axis=0)  # False for nan
    p = (1 + DRAWS - smaller) / (1 + DRAWS)
    return Lead(k, _from_then_on(p <= (1 - CONFIDENCE) / tests))


def _from_then_on(holds: np.ndarray) -> int | None:
    """Return the smallest k = 1, 2, ... from which on the condition holds, or None."""
    failing = np.flatnonzero(~holds)
    start = int(failing[-1]) + 2 if len(failing) else 1
    return start if start <= len(holds) else None


def _expected_best(scores: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the best of k = 1 ... `size` scores, and the share of draws without one.

    `scores` has the shape [..., K]; larger scores are better, and nan is a failed configuration.
    """
    ordered = np.sort(np.where(np.isnan(scores), -math.inf, scores), axis=-1)
    weights, scored = _weights(scores.shape[-1])[:size].T, np.isfinite(ordered)
    share = scored @ weights
    with np.errstate(invalid="ignore"):
        return np.where(scored, ordered, 0.0) @ weights / share, 1 - share


def _weights(total: int) -> np.ndarray:
    """Return the probability that the i-th worst of K configurations is the best of a draw of k.

    The shape is [k, i], with k and i from 1 to K = `total`.
    """
    rank, rows = np.arange(1, total + 1), [np.full(total, 1 / max(total, 1))]
    for k in range(1, total):
        # C(i - 1, k) / C(K, k + 1) from C(i - 1, k - 1) / C(K, k), which avoids large numbers.
        rows.append(rows[-1] * np.maximum(rank - k, 0) * (k + 1) / (k * (total - k)))
    return np.array(rows)


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
