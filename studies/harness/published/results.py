"""The comparison of an artefact with its paper: verdicts, and the agreement of the arms' orders."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from studies.harness.design.facts import Facts
from studies.harness.published.papers import Paper, about, paper
from studies.harness.published.verdicts import NOT_RUN, Comparison, Measured, compare
from studies.harness.statistics.paired import ALPHA, kendall

DRAWS = 2000  # bootstrap samples


@dataclass(frozen=True)
class Ordering:
    """Agreement of the measured and the published order of the arms in one column of a table.

    Attributes:
        table: The table of the paper.
        column: The column of the table.
        arms: Number of arms with a published and a measured value.
        tau: Kendall's tau-b between published values and measured means.
        lo: Lower end of its 95% bootstrap percentile interval over seeds; nan without seeds.
        hi: Upper end of the interval.
    """

    table: str
    column: str
    arms: int
    tau: float
    lo: float = math.nan
    hi: float = math.nan


@dataclass(frozen=True)
class Published:
    """The comparison of an artefact with its paper.

    Attributes:
        paper: The paper.
        table: The tables and figures of the paper that the artefact reproduces.
        comparisons: One comparison for each of their cells.
        shown: The comparisons to print: those with a verdict other than `not run`, and those on the
            artefact's workloads.
        orderings: The orderings of the columns with at least two arms that have both values.
    """

    paper: Paper
    table: str
    comparisons: Sequence[Comparison]
    shown: Sequence[Comparison]
    orderings: Sequence[Ordering]


def against(
    facts: Facts, groups: Sequence[Measured], workloads: Collection[str]
) -> Published | None:
    """Compare an artefact's measured results with its paper; None if the paper has no numbers.

    The published numbers of `workloads` are included in `shown` even if their verdict is `not run`.
    """
    source = paper(facts.paper)
    cells = about(source.cells, facts.table) if source else []
    if source is None or not cells:
        return None
    rows = compare(cells, groups)
    shown = [
        row for row in rows if row.verdict != NOT_RUN or row.cell.protocol["workload"] in workloads
    ]
    return Published(source, facts.table, rows, shown, orderings(rows))


def orderings(comparisons: Sequence[Comparison]) -> list[Ordering]:
    """Return one ordering for each column of a table with at least two arms that have both values.

    The bootstrap resamples seeds, and uses the same seeds for all arms. Its generator is seeded by
    the data, so that equal folders give equal intervals.
    """
    columns: dict[tuple[str, str], list[Comparison]] = {}
    for row in comparisons:
        if row.cell.value is not None and not math.isnan(row.difference):
            columns.setdefault((row.cell.table, row.cell.column), []).append(row)
    return [_ordering(*key, rows) for key, rows in columns.items() if len(rows) > 1]


def _ordering(table: str, column: str, rows: Sequence[Comparison]) -> Ordering:
    published = np.array([row.cell.value for row in rows])
    if not all(row.values for row in rows):
        tau = float(kendall(published, np.array([row.measured.mean for row in rows])))
        return Ordering(table, column, len(rows), tau)
    seeds = sorted({seed for row in rows for seed in row.values})
    # The shape is [arms, seeds].
    sample = np.array([[row.values.get(seed, math.nan) for seed in seeds] for row in rows])
    data = np.ascontiguousarray(np.column_stack([published, sample]))
    digest = hashlib.sha256(data.tobytes()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    drawn = sample[:, rng.integers(len(seeds), size=(DRAWS, len(seeds)))]  # [arms, draws, seeds]
    count = np.sum(~np.isnan(drawn), axis=2)
    means = np.where(count, np.nansum(drawn, axis=2) / np.maximum(count, 1), np.nan)
    # Drop the samples that contain no seed of some arm.
    means = means[:, ~np.isnan(means).any(axis=0)]
    lo, hi = np.quantile(kendall(published, means.T), [ALPHA / 2, 1 - ALPHA / 2])
    tau = float(kendall(published, np.nanmean(sample, axis=1)))
    return Ordering(table, column, len(rows), tau, float(lo), float(hi))
