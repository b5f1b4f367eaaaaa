"""Agreement of the measured order of a table's arms with the published one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from studies.harness.published.verdicts import Comparison
from studies.harness.statistics.paired import ALPHA, kendall

DRAWS = 2000


@dataclass(frozen=True)
class Ordering:
    """Agreement of measured and published order of a column's arms.

    Attributes:
        table: Of the claims.
        column: Of the claims.
        arms: Arms with both numbers.
        tau: Kendall's tau-b of published values and measured means.
        lo: Lower end of its 95% percentile interval, resampling seeds; nan without seeds.
        hi: Its upper end.
    """

    table: str
    column: str
    arms: int
    tau: float
    lo: float
    hi: float


def orderings(comparisons: Sequence[Comparison]) -> list[Ordering]:
    """Return one for each column of a table in which two arms or more have both numbers.

    The bootstrap draws seeds, the same for every arm that has them, from a generator seeded by the data, so that equal
    folders give equal intervals.
    """
    columns: dict[tuple[str, str], list[Comparison]] = {}
    for row in comparisons:
        if row.claim.value is not None and not math.isnan(row.difference):
            columns.setdefault((row.claim.table, row.claim.column), []).append(row)
    return [_ordering(*key, rows) for key, rows in columns.items() if len(rows) > 1]


def _ordering(table: str, column: str, rows: Sequence[Comparison]) -> Ordering:
    published = np.array([row.claim.value for row in rows])
    if not all(row.values for row in rows):
        tau = float(kendall(published, np.array([row.measured.mean for row in rows])))
        return Ordering(table, column, len(rows), tau, math.nan, math.nan)
    seeds = sorted({seed for row in rows for seed in row.values})
    sample = np.array([[row.values.get(seed, math.nan) for seed in seeds] for row in rows])  # [arms, seeds]
    content = hashlib.sha256(np.ascontiguousarray(np.column_stack([published, sample])).tobytes()).digest()
    rng = np.random.default_rng(int.from_bytes(content[:8], "big"))
    drawn = sample[:, rng.integers(len(seeds), size=(DRAWS, len(seeds)))]  # [arms, draws, seeds]
    count = np.sum(~np.isnan(drawn), axis=2)
    means = np.where(count, np.nansum(drawn, axis=2) / np.maximum(count, 1), np.nan)
    means = means[:, ~np.isnan(means).any(axis=0)]  # a draw that misses all of an arm's seeds has no order
    taus = kendall(published, means.T)
    lo, hi = np.quantile(taus, [ALPHA / 2, 1 - ALPHA / 2])
    tau = float(kendall(published, np.nanmean(sample, axis=1)))
    return Ordering(table, column, len(rows), tau, float(lo), float(hi))
