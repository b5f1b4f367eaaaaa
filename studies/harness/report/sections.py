"""The parts of a report that weigh evidence: power, what a factor's levels say, what failed, published numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from studies.harness.evidence.contrasts import SAME, Detectable, detectable
from studies.harness.evidence.ledger import factors, series
from studies.harness.evidence.levels import EDGE, FLAT, INSIDE, LevelVerdict, level_verdicts, sorted_levels
from studies.harness.kinds.study.study import Artefact, Study, Trial
from studies.harness.published.orders import Ordering, orderings
from studies.harness.published.papers import Claim, about, paper
from studies.harness.published.verdicts import NOT_RUN, RULE, Comparison, Measured, compare, coverage, measured
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.report.wording import Unit, number, unit
from trainables.store import COMPLETED, DIVERGED, FAILED, OOM

LOST = (DIVERGED, OOM, FAILED)


def power(frame: pd.DataFrame, metric: str) -> str:
    """`n = 5; seed SD = 0.17 points; smallest difference detectable ...`, for the foot of a table."""
    found = detectable(frame, metric)
    return "" if found is None else _power(found, unit(metric))


def _power(found: Detectable, show: Unit) -> str:
    paired = ""
    if not math.isnan(found.paired):
        paired = f" / {show.show(found.paired)} (paired by seed, correlation {found.correlation:.2f})"
    return (
        f"n = {found.n}; seed SD = {show.show(found.sd)} {show.difference}, pooled over arms; smallest difference "
        f"detectable with 80% power by one test at 5% = {show.show(found.unpaired)} (unpaired){paired}."
    )


def levels(frame: pd.DataFrame, metric: str) -> list[Block]:
    """One line for each optimizer's levels of each factor."""
    verdicts = level_verdicts(frame, metric)
    if not verdicts:
        return []
    sentences = tuple(_level(verdict) for verdict in verdicts)
    small = (
        "Each line is by itself: paired by seed, Holm over the pairs of its own levels at 5%, so that of twenty such "
        "lines about one tells levels apart by chance."
    )
    return [Heading("What the levels say"), Text("", items=sentences, found=True), Text(small, note=True)]


def _level(found: LevelVerdict) -> str:
    setting = f" at {found.setting}" if found.setting else ""
    kind = " faithful" if found.faithful else ""
    start = f"`{found.optimizer}`{kind} {found.factor}{_range(found.levels)}{setting}: "
    return start + _judgement(found) + (f" Ended without a result: {_list(found.lost)}." if found.lost else "")


def _judgement(found: LevelVerdict) -> str:
    if found.best is None:
        return "too few completed trials to say."
    if found.verdict == FLAT:
        return f"flat within noise, every pair equal within {100 * SAME:g} points (TOST at 5%)."
    tied = [str(level) for level in found.tied if level != found.best]
    if len(found.tied) == len(found.levels):
        return (
            f"undecided, {found.best} has the best mean, no other level is told from it, and they are not all "
            f"shown to be equal within {100 * SAME:g} points."
        )
    ties = f"; not told from it: {', '.join(tied)}" if tied else "; every other level is worse"
    if found.verdict == EDGE:
        wider = ",".join(map(str, [*found.levels, found.suggestion]))
        more = "" if found.suggestion is None else f" Add `--levels {found.factor}={wider}`."
        return f"best at {found.best}, the edge of the grid{ties}.{more}"
    place = ", inside the grid" if found.verdict == INSIDE else ""
    return f"best at {found.best}{place}{ties}."


def _range(levels: Sequence[Any]) -> str:
    """` 5 to 20` of numbers, otherwise all of them."""
    if len(levels) < 2:
        return ""
    ordered = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    return f" {levels[0]} to {levels[-1]}" if ordered else f" {_list(levels)}"


def _list(levels: Sequence[Any]) -> str:
    return ", ".join(map(str, levels))


def stability(study: Study, frame: pd.DataFrame) -> list[Block]:
    """What became of the planned trials, by level, where any of them ended without a result."""
    if set(frame["status"]).isdisjoint(LOST):
        return []
    factor = getattr(study.figure, "factor", "")
    factor = factor if factor in frame else ""
    levels = sorted_levels(frame[factor].dropna()) if factor else []
    rows: dict[str, dict[Any, str]] = {}
    for _, part in frame.groupby("arm", sort=False):
        first = part.iloc[0].to_dict()
        level = first[factor] if factor and not pd.isna(first[factor]) else ""
        name = f"{first['optimizer']} {series(first, factor, factors(frame))}".strip()
        rows.setdefault(name, {})[level] = _outcome(part)
    columns = [*levels, *([""] if any("" in row for row in rows.values()) else [])]
    header = ["arm", *(str(level) or "no level" for level in columns)]
    cells = [[name, *(row.get(level, "") for level in columns)] for name, row in rows.items()]
    note = "Completed of planned trials, and what became of the others. A level at which training diverges is a result."
    title = f"Stability over {factor.replace('_', ' ')}" if factor else "Stability"
    table = Table(name="stability", header=header, rows=cells, caption=f"{title}: completed of planned trials.")
    counts = frame["status"].value_counts()
    lost = ", ".join(f"{counts[status]} {status}" for status in LOST if status in counts)
    said = f"{lost} of {len(frame)} trials: they are counted, and enter no mean."
    return [Heading(title), Text(said, found=True), table, Text(note, note=True)]


def _outcome(part: pd.DataFrame) -> str:
    """`2 of 3, 1 diverged`."""
    counts = part["status"].value_counts()
    lost = [f"{counts[status]} {status}" for status in LOST if status in counts]
    return ", ".join([f"{counts.get(COMPLETED, 0)} of {len(part)}", *lost])


def published(
    study: Study, trials: Sequence[Trial], frame: pd.DataFrame, further: Sequence[Measured] = ()
) -> tuple[list[Block], list[Comparison]]:
    """`against` of a study's trials; `further` is what was measured of them beside the study's metric."""
    groups = [*measured(trials, frame, study.figure.metric), *further]
    return against(study, groups, {trial.config.workload for trial in trials})


def against(
    study: Artefact, groups: Sequence[Measured], workloads: Collection[str]
) -> tuple[list[Block], list[Comparison]]:
    """The claims of an artefact's tables beside what was measured, and every comparison, those not run included.

    Args:
        study: Its paper and tables.
        groups: What was measured.
        workloads: Whose claims are shown even where nothing was run.
    """
    source = paper(study.paper)
    claims = about(source.claims, study.table) if source else []
    if source is None or not claims:
        return [], []
    rows = compare(claims, groups)
    shown = [row for row in rows if row.verdict != NOT_RUN or row.claim.protocol["workload"] in workloads]
    texts = [Text(f"Of {source.name}'s {study.table}, {coverage(rows)}.", label="Coverage", found=True)]
    texts += [Text(_order(found), label="Order", found=True) for found in orderings(rows) if not math.isnan(found.tau)]
    lost = tuple(source.notes[table][0] for table in dict.fromkeys(c.table for c in claims) if source.notes[table])
    foot = Text(RULE + "".join(f" {note}" for note in lost), note=True)
    header = ["row", "column", "published", "measured", "difference", "in SDs", "verdict"]
    table = Table(
        name="published",
        header=header,
        rows=[_comparison(row) for row in shown],
        text=(0, 1, 6),
        caption=f"{source.name}, {study.table}: published and measured.",
    )
    return [Heading(f"Published by {source.name}"), *texts, *([table, foot] if shown else [])], rows


def _order(found: Ordering) -> str:
    tau, lo, hi = (number(value, "+.2f") for value in (found.tau, found.lo, found.hi))
    interval = f", 95% bootstrap interval over seeds [{lo}, {hi}]"
    words = f"{found.table}, {found.column}: Kendall's tau of {found.arms} arms = {tau}"
    return words + ("" if math.isnan(found.lo) else interval) + "."


def _comparison(row: Comparison) -> list[str]:
    claim, summary = row.claim, row.measured
    why = f" ({row.why})" if row.why else ""
    mean = "-" if math.isnan(summary.mean) else _number(summary.mean, claim)
    if not math.isnan(summary.ci_lo):
        mean += f" [{_number(summary.ci_lo, claim)}, {_number(summary.ci_hi, claim)}]"
    apart = [number(value, "+.2f") for value in (row.difference, row.pooled)]
    return [claim.row, f"{claim.table}: {claim.column}", shown_claim(claim), mean, *apart, row.verdict + why]


def shown_claim(claim: Claim) -> str:
    """A claim's cell: `92.80 ± 0.21 (n = 5) %`."""
    if claim.value is None:
        return str(claim.outcome)
    spread = f" ± {claim.spread:.2f}" if claim.spread else ""
    runs = f" (n = {claim.n})" if claim.n else ""
    return _number(claim.value, claim) + spread + runs + (" %" if claim.unit == "percent" else f" {claim.unit}")


def _number(value: float, claim: Claim) -> str:
    return f"{value:.0f}" if claim.unit == "epochs" else f"{value:.2f}"


def comparison_table(rows: Sequence[Comparison]) -> pd.DataFrame:
    """Every comparison at full precision, for `published.csv`."""
    names = ("table", "row", "column", "metric", "unit", "value", "outcome", "spread", "n", "spread_kind", "margin")
    records = []
    for row in rows:
        found = {"arm": row.label, **{f"measured_{k}": v for k, v in vars(row.measured).items()}}
        verdict = {"failures": row.failures, "difference": row.difference, "pooled_sds": row.pooled}
        claim = {name: getattr(row.claim, name) for name in names}
        records.append(claim | found | verdict | {"verdict": row.verdict, "why": row.why})
    return pd.DataFrame(records)
