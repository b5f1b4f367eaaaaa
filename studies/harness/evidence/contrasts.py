"""Differences between arms: paired by seed, corrected by Holm, bold where they survive, and what could be detected.

Seeds share initial weights and data order across arms, so arms are compared seed by seed: the paired t test removes the
part of the noise that they share. Functions of arrays take leading axes, so that many tables are tested in one call;
nan is a seed without a result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from studies.harness.evidence.statistics import CONFIDENCE, completed

ALPHA = 1 - CONFIDENCE
POWER = 0.80
SAME = 0.003  # accuracies closer than 0.3 points are called equal
ROUNDING = 1e-12  # a spread below this part of the values is rounding, and nothing can be tested with it


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of a metric is the better one: accuracies, but not losses, seconds or bytes."""
    return "accuracy" in metric


def paired_p(differences: np.ndarray) -> np.ndarray:
    """Two-sided p-value of the paired t test.

    Args:
        differences: [..., n], one per seed; nan where either arm has no result.

    Returns:
        [...]; nan where fewer than two differences are left, or all are equal: nothing to test with.
    """
    n, mean, sd = _moments(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sd > 0, 2 * stats.t.sf(np.abs(mean) * np.sqrt(n) / sd, np.maximum(n - 1, 1)), np.nan)


def equivalence_p(differences: np.ndarray, margin: float) -> np.ndarray:
    """P-value of two one-sided paired t tests: small when the mean difference lies within +-margin.

    Args:
        differences: [..., n], one per seed; nan where either arm has no result.
        margin: In the unit of the differences.

    Returns:
        [...]; nan without two differences; 0 when every difference is exactly 0.
    """
    n, mean, sd = _moments(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.t.sf((margin - np.abs(mean)) * np.sqrt(n) / sd, np.maximum(n - 1, 1))
    return np.where(sd > 0, p, np.where((n >= 2) & (mean == 0), 0.0, np.nan))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values along the last axis: [..., m] -> [..., m]; nan was not tested and does not count."""
    order = np.argsort(p, axis=-1)  # nan last
    tests = np.sum(~np.isnan(p), axis=-1, keepdims=True)
    scaled = np.take_along_axis(p, order, axis=-1) * (tests - np.arange(p.shape[-1]))
    adjusted = np.empty_like(scaled)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0), axis=-1)
    return adjusted


def survivors(values: np.ndarray, higher: bool = True) -> np.ndarray:
    """Which arms of a table are bold: they beat some arm, and no arm beats them, after Holm over all pairs of arms.

    Arms that tie at the top share it. When all arms are equal, a table has a bold cell with probability at most ALPHA.

    Args:
        values: [..., seeds, arms]; nan where a seed has no result.
        higher: Whether larger is better.

    Returns:
        [..., arms], bool.
    """
    arms = values.shape[-1]
    first, second = np.triu_indices(arms, 1)
    differences = np.swapaxes(values[..., first] - values[..., second], -1, -2)
    significant = holm(paired_p(differences)) <= ALPHA  # nan compares false
    ahead = (_moments(differences)[1] > 0) == higher
    wins = np.zeros((*values.shape[:-2], arms, arms), dtype=bool)  # [winner, loser]
    wins[..., first, second] = significant & ahead
    wins[..., second, first] = significant & ~ahead
    return np.logical_and(wins.any(axis=-1), np.logical_not(wins.any(axis=-2)))


def by_seed(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The completed trials' values, a row per seed and a column per arm in the order of the plan; nan where missing."""
    table = frame.assign(value=completed(frame, metric)).pivot(index="seed", columns="arm", values="value")
    return table.reindex(columns=list(dict.fromkeys(frame["arm"]))).astype(float)


def contrasts(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every pair of arms, compared on their common seeds.

    Args:
        frame: `ledger.frame(..., per="trial")`.
        metric: What is compared.

    Returns:
        Columns `arm other n difference ci_lo ci_hi p p_holm`; difference = arm - other, with its 95% t-interval, and
        p_holm corrected over all pairs of the table. nan where fewer than two seeds are common.
    """
    table = by_seed(frame, metric)
    first, second = np.triu_indices(table.shape[1], 1)
    values = table.to_numpy()
    differences = (values[:, first] - values[:, second]).T
    n, mean, sd = _moments(differences)
    half = stats.t.ppf(1 - ALPHA / 2, np.maximum(n - 1, 1)) * sd / np.sqrt(np.maximum(n, 1))
    p = paired_p(differences)
    names = np.array(table.columns, dtype=object)
    return pd.DataFrame(
        {
            "arm": names[first],
            "other": names[second],
            "n": n,
            "difference": mean,
            "ci_lo": mean - half,
            "ci_hi": mean + half,
            "p": p,
            "p_holm": holm(p),
        }
    )


def bold(frame: pd.DataFrame, metric: str) -> set[str]:
    """The labels of the arms that are bold in the table; an arm with a diverged or oom trial never is."""
    table = by_seed(frame, metric)
    lost = set(frame.loc[frame["status"].isin(["diverged", "oom"]), "arm"])
    chosen = survivors(table.to_numpy(), higher_is_better(metric))
    return {arm for arm, wins in zip(table.columns, chosen, strict=True) if wins} - lost


@dataclass(frozen=True)
class Detectable:
    """What a table could have shown: the smallest true difference found with 80% power by one test at 5%.

    Attributes:
        n: Completed seeds of the arm that has the fewest, of those with two or more.
        sd: Standard deviation over seeds, pooled over arms.
        correlation: Between arms over common seeds, pooled; nan with one arm.
        unpaired: Smallest detectable difference when arms have seeds of their own.
        paired: The same, compared seed by seed.
    """

    n: int
    sd: float
    correlation: float
    unpaired: float
    paired: float


def detectable(frame: pd.DataFrame, metric: str) -> Detectable | None:
    """The smallest difference that a table's seeds can show; None where no arm has two completed trials."""
    table = by_seed(frame, metric)
    counts = table.notna().sum()
    table = table.loc[:, counts >= 2]
    if table.empty:
        return None
    n = int(counts[counts >= 2].min())
    covariance = table.cov().to_numpy()
    weights = table.notna().sum().to_numpy() - 1
    variance = float(np.average(np.diag(covariance), weights=weights))
    off_diagonal = covariance[np.triu_indices(len(covariance), 1)]
    shared = float(np.nanmean(off_diagonal)) if np.isfinite(off_diagonal).any() else math.nan
    correlation = float(np.clip(shared / variance, -1, 1)) if variance > 0 else math.nan
    sd = math.sqrt(variance)
    unpaired = smallest_effect(2 * n - 2) * sd * math.sqrt(2 / n)
    paired = smallest_effect(n - 1) * sd * math.sqrt(2 * (1 - correlation) / n)
    return Detectable(n, sd, correlation, unpaired, paired)


def smallest_effect(df: int) -> float:
    """The noncentrality at which a two-sided t test at 5% has 80% power: the detectable difference in standard errors.

    Args:
        df: Degrees of freedom, at least 1.
    """
    critical = float(stats.t.ppf(1 - ALPHA / 2, df))
    # The noncentral t itself is nan for few degrees of freedom: average the normal power over the estimated SD instead.
    spread = np.sqrt(stats.chi2.ppf((np.arange(10_000) + 0.5) / 10_000, df) / df)

    def shortfall(noncentrality: float) -> float:
        beyond = stats.norm.sf(critical * spread - noncentrality) + stats.norm.cdf(-critical * spread - noncentrality)
        return float(beyond.mean()) - POWER

    return float(optimize.brentq(shortfall, 0.1, 10 * critical))  # type: ignore[arg-type]


def _moments(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and sample SD along the last axis without nan; an SD that is mere rounding is 0, below two nan."""
    n = np.sum(~np.isnan(differences), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(differences, axis=-1) / n
        square = np.nansum((differences - mean[..., None]) ** 2, axis=-1)
        sd = np.sqrt(np.where(n >= 2, square, np.nan) / (n - 1))
    size = np.max(np.abs(np.nan_to_num(differences)), axis=-1, initial=0.0)
    return n, mean, np.where(sd <= ROUNDING * size, 0.0, sd)
