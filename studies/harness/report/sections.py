"""Sections of a report: verdicts on a factor's levels, lost trials, published numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.ledger import series
from studies.harness.evidence.levels import (
    EDGE,
    FLAT,
    INSIDE,
    LevelVerdict,
    are_numbers,
    sorted_levels,
)
from studies.harness.evidence.metrics import number
from studies.harness.evidence.status import LOST, UNFINISHED
from studies.harness.published.papers import Claim
from studies.harness.published.results import Ordering, Published
from studies.harness.published.verdicts import RULE, Comparison, coverage
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.statistics.paired import SAME

# ---------------------------------------------------------------------- levels


def levels(evidence: Evidence) -> list[Block]:
    """Return one line for each optimizer's levels of each factor."""
    if not evidence.levels:
        return []
    sentences = Text("", items=tuple(_level(verdict) for verdict in evidence.levels), found=True)
    small = (
        "Each line is by itself: paired by seed, Holm over the pairs of its own levels at 5%, so that of twenty such "
        "lines about one tells levels apart by chance."
    )
    return [Heading("What the levels say"), sentences, Text(small, note=True)]


def _level(verdict: LevelVerdict) -> str:
    setting = f" at {verdict.setting}" if verdict.setting else ""
    kind = " as-released" if verdict.as_released else ""
    lost = f" Ended without a result: {', '.join(verdict.lost)}." if verdict.lost else ""
    levels, grid = verdict.levels, ""
    if len(levels) > 1:
        grid = (
            f" {levels[0]} to {levels[-1]}"
            if are_numbers(levels)
            else f" {', '.join(map(str, levels))}"
        )
    return (
        f"`{verdict.optimizer}`{kind} {verdict.factor}{grid}{setting}: {_judgement(verdict)}{lost}"
    )


def _judgement(verdict: LevelVerdict) -> str:
    if verdict.best is None:
        return "too few completed trials to say."
    if verdict.verdict == FLAT:
        return f"flat within noise, every pair equal within {100 * SAME:g} points (TOST at 5%)."
    tied = [str(level) for level in verdict.tied if level != verdict.best]
    if len(verdict.tied) == len(verdict.levels):
        return (
            f"undecided, {verdict.best} has the best mean, no other level is told from it, and they are not all "
            f"shown to be equal within {100 * SAME:g} points."
        )
    ties = f"; not told from it: {', '.join(tied)}" if tied else "; every other level is worse"
    if verdict.verdict == EDGE:
        wider = ",".join(map(str, [*verdict.levels, verdict.suggestion]))
        add = "" if verdict.suggestion is None else f" Add `--levels {verdict.factor}={wider}`."
        return f"best at {verdict.best}, the edge of the grid{ties}.{add}"
    place = ", inside the grid" if verdict.verdict == INSIDE else ""
    return f"best at {verdict.best}{place}{ties}."


# ---------------------------------------------------------------------- lost trials


def stability(evidence: Evidence, factor: str) -> list[Block]:
    """Return the outcome of the planned trials, by level of a factor, if any of them ended without a result."""
    if not evidence.lost:
        return []
    factor = factor if factor in evidence.factors else ""
    levels = sorted_levels(evidence.arms[factor].dropna()) if factor else []
    rows: dict[str, dict[Any, str]] = {}
    for arm in evidence.arms.to_dict("records"):
        level = arm[factor] if factor and not pd.isna(arm[factor]) else ""
        name = f"{arm['optimizer']} {series(arm, factor, evidence.factors)}".strip()
        rows.setdefault(name, {})[level] = _outcome(arm)
    columns = [*levels, *([""] if any("" in row for row in rows.values()) else [])]
    header = ["arm", *(str(level) or "no level" for level in columns)]
    cells = [[name, *(row.get(level, "") for level in columns)] for name, row in rows.items()]
    note = "Completed of planned trials, and what became of the others. A level at which training diverges is a result."
    title = f"Stability over {factor.replace('_', ' ')}" if factor else "Stability"
    table = Table(
        name="stability",
        header=header,
        rows=cells,
        caption=f"{title}: completed of planned trials.",
    )
    lost = ", ".join(f"{count} {status}" for status, count in evidence.lost.items())
    finding = f"{lost} of {len(evidence.trials)} trials: they are counted, and enter no mean."
    return [Heading(title), Text(finding, found=True), table, Text(note, note=True)]


def _outcome(arm: Mapping[Any, Any]) -> str:
    """Return `2 of 3, 1 diverged`."""
    completed = arm["planned"] - sum(arm[status] for status in UNFINISHED)
    lost = [f"{arm[status]} {status}" for status in LOST if arm[status]]
    return ", ".join([f"{completed} of {arm['planned']}", *lost])


# ---------------------------------------------------------------------- published numbers


def published(published: Published | None) -> list[Block]:
    """Return the claims of an artefact's tables beside the measured results."""
    if published is None:
        return []
    name, rows = published.paper.name, published.comparisons
    blocks: list[Block] = [
        Text(f"Of {name}'s {published.table}, {coverage(rows)}.", label="Coverage", found=True)
    ]
    orders = [ordering for ordering in published.orderings if not math.isnan(ordering.tau)]
    blocks += [Text(_order(ordering), label="Order", found=True) for ordering in orders]
    if published.shown:
        notes = [
            published.paper.notes[table][:1]
            for table in dict.fromkeys(row.claim.table for row in rows)
        ]
        header = ["row", "column", "published", "measured", "difference", "in SDs", "verdict"]
        cells = [_comparison(row) for row in published.shown]
        caption = f"{name}, {published.table}: published and measured."
        blocks.append(Table("published", header, cells, text=(0, 1, 6), caption=caption))
        blocks.append(
            Text(" ".join([RULE, *(note for first in notes for note in first)]), note=True)
        )
    return [Heading(f"Published by {name}"), *blocks]


def _order(ordering: Ordering) -> str:
    tau, lo, hi = (number(value, "+.2f") for value in (ordering.tau, ordering.lo, ordering.hi))
    interval = "" if lo == "-" else f", 95% bootstrap interval over seeds [{lo}, {hi}]"
    return f"{ordering.table}, {ordering.column}: Kendall's tau of {ordering.arms} arms = {tau}{interval}."


def _comparison(row: Comparison) -> list[str]:
    claim, summary = row.claim, row.measured
    why = f" ({row.why})" if row.why else ""
    mean = "-" if math.isnan(summary.mean) else _number(summary.mean, claim)
    if not math.isnan(summary.ci_lo):
        mean += f" [{_number(summary.ci_lo, claim)}, {_number(summary.ci_hi, claim)}]"
    differences = [number(value, "+.2f") for value in (row.difference, row.pooled)]
    return [
        claim.row,
        f"{claim.table}: {claim.column}",
        _claim(claim),
        mean,
        *differences,
        row.verdict + why,
    ]


def _claim(claim: Claim) -> str:
    """Return a claim's cell: `92.80 ± 0.21 (n = 5) %`."""
    if claim.value is None:
        return str(claim.outcome)
    spread = f" ± {claim.spread:.2f}" if claim.spread else ""
    runs = f" (n = {claim.n})" if claim.n else ""
    return (
        _number(claim.value, claim)
        + spread
        + runs
        + (" %" if claim.unit == "percent" else f" {claim.unit}")
    )


def _number(value: float, claim: Claim) -> str:
    return f"{value:.0f}" if claim.unit == "epochs" else f"{value:.2f}"


def published_files(published: Published | None) -> dict[str, str]:
    """Return `published.csv`: every comparison at full precision; nothing without published numbers."""
    if published is None:
        return {}
    names = (
        "table",
        "row",
        "column",
        "metric",
        "unit",
        "value",
        "outcome",
        "spread",
        "n",
        "spread_kind",
        "margin",
    )
    records = []
    for row in published.comparisons:
        claim = {name: getattr(row.claim, name) for name in names}
        measured = {"arm": row.label, **{f"measured_{k}": v for k, v in vars(row.measured).items()}}
        verdict = {"failures": row.failures, "difference": row.difference, "pooled_sds": row.pooled}
        records.append(claim | measured | verdict | {"verdict": row.verdict, "why": row.why})
    return {"published.csv": pd.DataFrame(records).to_csv(index=False)}
