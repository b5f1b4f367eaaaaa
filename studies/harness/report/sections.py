"""Sections of a report: verdicts on a factor's levels, lost trials, published numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from precond.counts import counted
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.ledger import series
from studies.harness.evidence.levels import (
    EDGE,
    EQUIVALENT,
    INCONCLUSIVE,
    INSIDE,
    LevelVerdict,
    are_numbers,
    margin,
    sorted_levels,
)
from studies.harness.evidence.metrics import join_words, number, words
from studies.harness.evidence.status import COMPLETED, DIVERGED, FAILED, LOST, OOM, UNFINISHED
from studies.harness.published.papers import Cell
from studies.harness.published.results import (
    Ordering,
    Published,
    coverage,
    multiplicity,
    too_uncertain,
)
from studies.harness.published.verdicts import DIFFERS, RULE, Comparison
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.statistics.paired import ALPHA

# ---------------------------------------------------------------------- levels


def levels(evidence: Evidence) -> list[Block]:
    """Return one line for each verdict on the levels of a factor."""
    if not evidence.levels:
        return []
    items = tuple(_level(verdict, evidence.metric) for verdict in evidence.levels)
    sentences = Text("", items=items, finding=True)
    note = (
        "The levels are the values of a hyperparameter that the study varies. Each line is tested "
        "separately, by paired tests by seed that are corrected over the pairs of levels of this "
        "line, at the 5% level. Even if no level had an effect, about one of twenty lines would "
        "report a significant difference by chance. Levels are equal within "
        f"{margin(evidence.metric)} if two one-sided t-tests (5% level each) show it for every pair "
        "of them."
    )
    if evidence.lost:
        note += (
            " A level with trials that ended without a result is only called best if it is better "
            "than each other level on more seeds than it is worse, where such a trial is the worst."
        )
    testable = any(verdict.best is not None for verdict in evidence.levels)
    notes = [Text(note, note=True)] if testable else []
    return [Heading("Comparison of the levels"), sentences, *notes]


def _level(verdict: LevelVerdict, metric: str) -> str:
    setting = f" with {verdict.setting}" if verdict.setting else ""
    kind = " as-released" if verdict.as_released else ""
    lost = (
        f" Trials without a result: {verdict.factor} {', '.join(verdict.lost)}."
        if verdict.lost
        else ""
    )
    levels, grid = verdict.levels, ""
    if len(levels) > 1:
        ends = f"{levels[0]} to {levels[-1]}"
        grid = f" {ends}" if are_numbers(levels) else f" ({', '.join(map(str, levels))})"
    arms = f"`{verdict.optimizer}`{kind}, {verdict.factor}{grid}{setting}"
    return f"{arms}: {_judgement(verdict, metric)}{lost}"


def _judgement(verdict: LevelVerdict, metric: str) -> str:
    """Return the verdict in words, with the levels that are not significantly worse."""
    if verdict.best is None:
        return "too few trials have completed for a comparison."
    if verdict.verdict == EQUIVALENT:
        return (
            f"all levels are equal within {margin(metric)} (two one-sided t-tests for every pair, 5% "
            "level)."
        )
    best = _best(verdict)
    if len(verdict.tied) == len(verdict.levels):
        return (
            f"{INCONCLUSIVE}; {best}, but no other level is significantly worse, and not every pair "
            f"of levels is equal within {margin(metric)}."
        )
    place = {EDGE: ", at the edge of the grid", INSIDE: ", inside the grid"}
    best += place.get(verdict.verdict, "")
    tied = [str(level) for level in verdict.tied if level != verdict.best]
    if len(tied) == 1:
        ties = f"the difference from {tied[0]} is not significant"
    elif tied:
        ties = f"the differences from {join_words(tied)} are not significant"
    else:
        ties = "every other level is significantly worse"
    if verdict.verdict != EDGE or verdict.suggestion is None:
        return f"{best}; {ties}."
    levels = ",".join(map(str, [*verdict.levels, verdict.suggestion]))
    return f"{best}; {ties}. To extend the grid, add `--levels {verdict.factor}={levels}`."


def _best(verdict: LevelVerdict) -> str:
    """Return the best level in words, and the levels with a better mean over completed trials."""
    best = f"{verdict.factor} {verdict.best}"
    if not verdict.unstable:
        return f"{best} has the best mean"
    others = join_words([str(level) for level in verdict.unstable])
    have = "has a better mean" if len(verdict.unstable) == 1 else "have better means"
    return (
        f"{best} is best, because trials at {others} ended without a result ({others} {have} over "
        "the completed trials only)"
    )


# ---------------------------------------------------------------------- lost trials


def stability(evidence: Evidence, factor: str) -> list[Block]:
    """Return the outcomes of the planned trials by level of a factor.

    Returns an empty list if no trial ended without a result.
    """
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
    unvaried = f"no {factor.replace('_', ' ')}" if factor else "completed trials"
    header = ["arm", *(str(level) or unvaried for level in columns)]
    cells = [[name, *(row.get(level, "") for level in columns)] for name, row in rows.items()]
    note = (
        "Each cell is the number of completed trials out of the planned trials, with the number of "
        "trials that ended without a result. Divergence at a level is a result of the study, too."
    )
    title = f"Stability by {factor.replace('_', ' ')}" if factor else "Stability"
    caption = f"{title}: completed trials out of the planned trials."
    table = Table("stability", header, cells, caption=caption)
    verbs = {DIVERGED: "diverged", OOM: "ran out of memory", FAILED: "failed"}
    lost = join_words([f"{number} {verbs[status]}" for status, number in evidence.lost.items()])
    trials, them, seeds = "these trials", "them", "their seeds"
    if sum(evidence.lost.values()) == 1:
        trials, them, seeds = "this trial", "it", "its seed"
    finding = (
        f"Of {counted(len(evidence.trials), 'planned trial')}, {lost}; no mean includes {trials}, "
        f"but every comparison counts {them} as the worst of {seeds}."
    )
    return [Heading(title), Text(finding, finding=True), table, Text(note, note=True)]


def without_value(evidence: Evidence) -> list[Text]:
    """Return how many completed trials have no value of the metric; empty if all have one."""
    finished = list(evidence.frame["status"]).count(COMPLETED)
    missing = finished - sum(evidence.arms["n"])
    if not missing:
        return []
    text = (
        f"Of {counted(finished, 'completed trial')}, {missing} ended without a finite "
        f"{words(evidence.metric)}; no mean includes them."
    )
    return [Text(text, finding=True)]


def _outcome(arm: Mapping[Any, Any]) -> str:
    """Return the outcomes of an arm's trials, such as `2 of 3, 1 diverged`."""
    completed = arm["planned"] - sum(arm[status] for status in UNFINISHED)
    lost = [f"{arm[status]} {status}" for status in LOST if arm[status]]
    return ", ".join([f"{completed} of {arm['planned']}", *lost])


# ---------------------------------------------------------------------- published numbers


def coverage_line(published: Published | None) -> list[Block]:
    """Return the number of published results that were measured, and of each verdict."""
    if published is None:
        return []
    source = f"{published.paper.name}, {published.table}"
    text = f"Of the published results in {source}, {coverage(published.comparisons)}."
    return [Text(text, label="Coverage", finding=True)]


def published(published: Published | None) -> list[Block]:
    """Return the comparison of an artefact's measured results with the published numbers."""
    if published is None:
        return []
    name, rows = published.paper.name, published.comparisons
    blocks: list[Block] = []
    if chance := multiplicity(rows):
        blocks.append(Text(chance, label="Differences", finding=True))
    orders = [ordering for ordering in published.orderings if not math.isnan(ordering.tau)]
    blocks += [
        Text(_order(ordering), label="Order of the arms", finding=True) for ordering in orders
    ]
    if published.shown:
        tables = dict.fromkeys(row.cell.table for row in rows)
        notes = [note for table in tables for note in published.paper.notes[table][:1]]
        header = [
            "row",
            "table: column",
            "published",
            "measured [95% interval]",
            "difference [95% interval]",
            "verdict",
        ]
        cells = [_comparison(row) for row in published.shown]
        caption = f"{name}, {published.table}: published and measured results."
        blocks.append(Table("published", header, cells, text=(0, 1, 5), caption=caption))
        if uncertain := too_uncertain(published.shown):
            notes.insert(
                0,
                f"Published numbers that no number of seeds can reproduce, because the printed "
                f"spread alone gives an interval that is wider than the margin: {uncertain}.",
            )
        blocks.append(Text(" ".join([RULE, *notes]), note=True))
    return [Heading(f"Comparison with the {name} paper"), *blocks]


def _order(ordering: Ordering) -> str:
    text = (
        f"{ordering.table}, {ordering.column}: Kendall's tau between the published and the measured "
        f"order of {ordering.arms} arms is {number(ordering.tau, '+.2f')}."
    )
    if not ordering.pairs:
        return text
    return (
        f"{text} Pairs of arms that are significantly different (corrected over all pairs, 5% "
        f"level): {ordering.same} in the published order and {ordering.reverse} in the reverse "
        f"order, of {ordering.pairs} with different published values."
    )


def _comparison(row: Comparison) -> list[str]:
    cell, summary = row.cell, row.measured
    reasons = [row.why] if row.why else []
    if row.verdict == DIFFERS and row.p_holm <= ALPHA:
        reasons.append("also after Holm's correction")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    mean = "-" if math.isnan(summary.mean) else _number(summary.mean, cell)
    if not math.isnan(summary.ci_lo):
        mean += f" [{_number(summary.ci_lo, cell)}, {_number(summary.ci_hi, cell)}]"
    difference, low, high = (number(x, "+.2f") for x in (row.difference, row.low, row.high))
    if not math.isnan(row.low):
        difference += f" [{low}, {high}]"
    return [
        cell.row,
        f"{cell.table}: {cell.column}",
        _value(cell),
        mean,
        difference,
        row.verdict + why,
    ]


def _value(cell: Cell) -> str:
    """Return a published result, such as `92.80 ± 0.21 (n = 5) %`."""
    if cell.value is None:
        return str(cell.outcome)
    spread = f" ± {cell.spread:.2f}" if cell.spread else ""
    runs = f" (n = {cell.n})" if cell.n else ""
    unit = "%" if cell.unit == "percent" else cell.unit
    return f"{_number(cell.value, cell)}{spread}{runs} {unit}"


def _number(value: float, cell: Cell) -> str:
    return f"{value:.0f}" if cell.unit == "epochs" else f"{value:.2f}"


def published_files(published: Published | None) -> dict[str, str]:
    """Return `published.csv` with all comparisons at full precision, if the paper has numbers."""
    if published is None:
        return {}
    names = (
        *("table", "row", "column", "metric", "unit", "value", "outcome", "spread", "n"),
        *("spread_kind", "margin"),
    )
    records = []
    for row in published.comparisons:
        cell = {name: getattr(row.cell, name) for name in names}
        measured = {"arm": row.label, **{f"measured_{k}": v for k, v in vars(row.measured).items()}}
        judgement = ("failures", "difference", "low", "high", "p", "p_holm", "verdict", "why")
        records.append(cell | measured | {name: getattr(row, name) for name in judgement})
    return {"published.csv": pd.DataFrame(records).to_csv(index=False)}
