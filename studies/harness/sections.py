"""The parts of a report that weigh evidence: differences, what a factor's levels say, published numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from studies.harness.claims import Claim, about, paper
from studies.harness.contrasts import SAME, Detectable, contrasts, detectable
from studies.harness.document import Block, Heading, Table, Text
from studies.harness.levels import EDGE, FLAT, INSIDE, LevelVerdict, level_verdicts
from studies.harness.orders import Ordering, orderings
from studies.harness.study import Artefact, Study, Trial
from studies.harness.verdicts import NOT_RUN, RULE, Comparison, Measured, compare, coverage, measured
from studies.harness.wording import Unit, probability, unit


def differences(study: Study, frame: pd.DataFrame) -> list[Block]:
    """Every arm against the reference, paired by seed, with p-values corrected over all pairs of the table."""
    metric, reference = study.figure.metric, reference_arm(study, frame)
    pairs, show = contrasts(frame, metric), unit(metric)
    rows = [_against(pair, reference, show) for pair in pairs.to_dict("records") if reference in _arms(pair)]
    rows = [row for row in rows if row[2] != "-"]
    if not rows:
        return []
    caption = f"Differences to {reference} in {show.difference}, paired by seed."
    header = ["arm", "common seeds", f"difference ({show.difference})", "95% t-interval", "p (Holm)"]
    note = (
        f"Arm - {reference}, on the seeds that both completed: paired t test, p-values by Holm over all "
        f"{sum(not math.isnan(p) for p in pairs['p'])} pairs of arms with two common seeds. The intervals are "
        "not corrected; a dash: all differences are equal, so that there is nothing to test with."
    )
    table = Table(name="differences", header=header, rows=rows, caption=caption)
    return [Heading(f"Differences to {reference}"), table, Text(note, note=True)]


def reference_arm(study: Study, frame: pd.DataFrame) -> str:
    """The arm that the others are held against: the figure's first reference that is planned, else the first arm."""
    arms = dict(zip(frame["optimizer"], frame["arm"], strict=True))
    return next((arms[name] for name in study.figure.references if name in arms), str(frame["arm"].iloc[0]))


def _arms(pair: dict[Any, Any]) -> tuple[str, str]:
    return pair["arm"], pair["other"]


def _against(pair: dict[Any, Any], reference: str, show: Unit) -> list[str]:
    difference, lo, hi, arm = pair["difference"], pair["ci_lo"], pair["ci_hi"], pair["arm"]
    if arm == reference:
        difference, lo, hi, arm = -difference, -hi, -lo, pair["other"]
    shown = [show.show(difference, signed=True), show.interval(lo, hi, signed=True), probability(pair["p_holm"])]
    return [arm, str(pair["n"]), *shown]


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
    return [Heading("What the levels say"), Text("", items=tuple(_level(verdict) for verdict in verdicts))]


def _level(found: LevelVerdict) -> str:
    setting = f" at {found.setting}" if found.setting else ""
    start = f"`{found.optimizer}` {found.factor}{setting}: "
    if found.best is None:
        return f"{start}too few completed trials to say."
    if found.verdict == FLAT:
        shown = ", ".join(map(str, found.levels))
        return f"{start}flat within noise. Every pair of {shown} is equal within {100 * SAME:g} points (TOST at 5%)."
    tied = [str(level) for level in found.tied if level != found.best]
    if len(found.tied) == len(found.levels):
        return (
            f"{start}undecided. {found.best} has the best mean; no other level is told from it, and they are not all "
            f"shown to be equal within {100 * SAME:g} points."
        )
    ties = f"; not told from it: {', '.join(tied)}" if tied else "; every other level is worse"
    if found.verdict == EDGE:
        more = f" Add `--levels {found.factor}={_list(found)}`." if found.suggestion is not None else ""
        return f"{start}best at {found.best}, the edge of the grid{ties}.{more}"
    place = ", inside the grid" if found.verdict == INSIDE else ""
    return f"{start}best at {found.best}{place}{ties}."


def _list(found: LevelVerdict) -> str:
    return ",".join(map(str, [*found.levels, found.suggestion]))


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
    texts = [Text(f"{coverage(rows)}.", label="Coverage")]
    texts += [Text(_order(found), label="Order") for found in orderings(rows) if not math.isnan(found.tau)]
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
    interval = f", 95% bootstrap interval over seeds [{found.lo:+.2f}, {found.hi:+.2f}]"
    words = f"{found.table}, {found.column}: Kendall's tau of {found.arms} arms = {found.tau:+.2f}"
    return words + ("" if math.isnan(found.lo) else interval) + "."


def _comparison(row: Comparison) -> list[str]:
    claim, summary = row.claim, row.measured
    why = f" ({row.why})" if row.why else ""
    mean = "-" if math.isnan(summary.mean) else _number(summary.mean, claim)
    if not math.isnan(summary.ci_lo):
        mean += f" [{_number(summary.ci_lo, claim)}, {_number(summary.ci_hi, claim)}]"
    apart = ["-" if math.isnan(value) else f"{value:+.2f}" for value in (row.difference, row.pooled)]
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
