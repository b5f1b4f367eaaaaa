"""A paper's claims about one artefact beside the measured results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from studies.harness.design.facts import Facts
from studies.harness.published.orders import Ordering, orderings
from studies.harness.published.papers import Paper, about, paper
from studies.harness.published.verdicts import NOT_RUN, Comparison, Measured, compare


@dataclass(frozen=True)
class Published:
    """The comparison of an artefact with its paper.

    Attributes:
        paper: The paper.
        table: Its tables and figures that the artefact reproduces.
        comparisons: One for each of their claims.
        shown: Those to print: all that were run, and all of the artefact's workloads.
        orderings: Of the columns in which two arms or more have both numbers.
    """

    paper: Paper
    table: str
    comparisons: Sequence[Comparison]
    shown: Sequence[Comparison]
    orderings: Sequence[Ordering]


def against(facts: Facts, groups: Sequence[Measured], workloads: Collection[str]) -> Published | None:
    """Compare an artefact's measured results with its paper; None if the paper has no numbers.

    Args:
        facts: The paper and its tables.
        groups: The measured results.
        workloads: Their claims are shown even if nothing was run.
    """
    source = paper(facts.paper)
    claims = about(source.claims, facts.table) if source else []
    if source is None or not claims:
        return None
    rows = compare(claims, groups)
    shown = [row for row in rows if row.verdict != NOT_RUN or row.claim.protocol["workload"] in workloads]
    return Published(source, facts.table, rows, shown, orderings(rows))
