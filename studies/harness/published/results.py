"""The comparison of an artefact with its paper: verdicts, and the agreement of the arms' orders."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from studies.harness.design.facts import Facts
from studies.harness.published.difference import Uncertainty, half_width, of_published
from studies.harness.published.papers import Paper, about, paper
from studies.harness.published.verdicts import (
    COMPATIBLE,
    DIFFERS,
    NOT_RUN,
    REPRODUCED,
    VERDICTS,
    Comparison,
    Measured,
    compare,
)
from studies.harness.statistics.many import all_pairs_p
from studies.harness.statistics.paired import ALPHA, holm, kendall, moments


@dataclass(frozen=True)
class Ordering:
    """Agreement of the measured and the published order of the arms in one column of a table.

    Tau has no bootstrap interval. Resampled means are less ordered than the measured ones, so with
    3 to 20 seeds such an interval contains the tau of the true means in 0% to 100% of samples,
    depending on the distances of the arms. Instead, the pairs of arms are tested.

    Attributes:
        table: The table of the paper.
        column: The column of the table.
        arms: Number of arms with a published and a measured value.
        tau: Kendall's tau-b between published values and measured means. An arm that lost most of
            its trials counts as the worst.
        pairs: Number of pairs of arms with different published values.
        same: Number of these pairs whose measured difference is significant (corrected over the
            pairs of arms, 5% level) and in the published order.
        reverse: Number of pairs with a significant difference in the reverse order.
    """

    table: str
    column: str
    arms: int
    tau: float
    pairs: int = 0
    same: int = 0
    reverse: int = 0


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
    rows = corrected(compare(cells, groups))
    shown = [
        row for row in rows if row.verdict != NOT_RUN or row.cell.protocol["workload"] in workloads
    ]
    return Published(source, facts.table, rows, shown, orderings(rows))


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with `p_holm`, which is corrected over all that have a p-value."""
    p = holm(np.array([row.p for row in comparisons], dtype=float))
    return [replace(row, p_holm=float(value)) for row, value in zip(comparisons, p, strict=True)]


def coverage(comparisons: Sequence[Comparison]) -> str:
    """Return how many published numbers were measured, and their verdicts, in words."""
    counts = {verdict: sum(row.verdict == verdict for row in comparisons) for verdict in VERDICTS}
    ran = sum(counts[verdict] for verdict in (REPRODUCED, COMPATIBLE, DIFFERS))
    rest = ", ".join(
        f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != NOT_RUN
    )
    text = f"{ran} of {len(comparisons)} were measured with the published protocol"
    return f"{text}; verdicts: {rest}" if rest else text


def multiplicity(comparisons: Sequence[Comparison]) -> str:
    """Return a sentence on the differences that chance explains; empty if none was tested."""
    tested = [row for row in comparisons if not math.isnan(row.difference)]
    if not tested:
        return ""
    differ = [row for row in tested if row.verdict == DIFFERS]
    text = (
        f"Results that differ at the 5% level: {len(differ)} of {len(tested)} that are tested. If all "
        f"were true replications, at most {ALPHA * len(tested):.1f} would differ by chance on average."
    )
    if means := sum(not math.isnan(row.p) for row in tested):
        remain = sum(row.p_holm <= ALPHA for row in differ)
        text += f" Significant after Holm's correction over the {means} tested means: {remain}."
    return text


def too_uncertain(comparisons: Sequence[Comparison]) -> int:
    """Return how many published numbers no number of seeds can reproduce.

    The interval of such a number, from its printed spread alone, is wider than the margin.
    """
    exact = Uncertainty(0.0, 1)
    cells = [row.cell for row in comparisons if row.cell.spread is not None and row.cell.n != 1]
    spreads = [of_published(cell.spread, cell.spread_kind, cell.n, exact) for cell in cells]
    return sum(
        float(half_width(exact, spread, 2 * ALPHA)) > cell.margin
        for cell, spread in zip(cells, spreads, strict=True)
    )


def orderings(comparisons: Sequence[Comparison]) -> list[Ordering]:
    """Return one ordering for each column of a table with at least two arms that have both values."""
    columns: dict[tuple[str, str], list[Comparison]] = {}
    for row in comparisons:
        if row.cell.value is not None and not math.isnan(_rank_value(row)):
            columns.setdefault((row.cell.table, row.cell.column), []).append(row)
    return [_ordering(*key, rows) for key, rows in columns.items() if len(rows) > 1]


def _rank_value(row: Comparison) -> float:
    """Return the value that ranks an arm: the mean or median, or the worst if most trials are lost.

    It is nan if the arm is not compared.
    """
    if row.verdict == DIFFERS and math.isnan(row.difference):
        return -math.inf if row.cell.higher else math.inf
    return math.nan if math.isnan(row.difference) else row.measured.mean


def _ordering(table: str, column: str, rows: Sequence[Comparison]) -> Ordering:
    published = np.array([row.cell.value for row in rows], dtype=float)
    ranks = np.array([_rank_value(row) for row in rows])
    # Ranks, because the difference of two infinite values is undefined.
    tau = float(kendall(published, np.unique(ranks, return_inverse=True)[1]))
    if not any(row.values for row in rows):
        return Ordering(table, column, len(rows), tau)
    seeds = sorted({seed for row in rows for seed in row.values})
    # The shape is [seeds, arms].
    sample = np.array([[row.values.get(seed, math.nan) for row in rows] for seed in seeds])
    sample = np.where(np.isnan(sample) & np.isinf(ranks), ranks, sample)
    step = max(row.step for row in rows)
    first, second = np.triu_indices(len(rows), 1)
    order = np.sign(published[first] - published[second])
    with np.errstate(invalid="ignore"):  # the difference of two infinite values
        signs = np.sign(moments((sample[:, first] - sample[:, second]).T)[1])
    agreement = np.where(all_pairs_p(sample, step) <= ALPHA, order * signs, 0)
    return Ordering(
        table,
        column,
        len(rows),
        tau,
        pairs=int(np.sum(order != 0)),
        same=int(np.sum(agreement > 0)),
        reverse=int(np.sum(agreement < 0)),
    )
