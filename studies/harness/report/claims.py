"""The decisions on the claims, for a report, the terminal, a CSV file, JSON and MLflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from precond.counts import counted
from studies.harness.evidence.claims import CONTRADICTED, INCONCLUSIVE, NOT_TESTED, Decision
from studies.harness.evidence.metrics import probability, unit, words
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.statistics.planning import MOST

NO_CLAIMS = (
    "This study has no claims about this workload. All comparisons in this report are exploratory."
)
UNDECIDABLE = "This study cannot decide these statements of the paper:"
HEADER = ["claim", "verdict", "pair", "n", "effect", "95% t-interval", "p (Holm)"]
HEADER += ["anytime-valid", "seeds to decide"]


def section(decisions: Sequence[Decision], undecidable: Sequence[str], metric: str) -> list[Block]:
    """Return the first section of a report: a sentence for each claim, a table, and notes.

    Args:
        decisions: The decisions on the claims.
        undecidable: The statements that the study cannot decide (`Facts.undecidable`).
        metric: The metric of the report's tables.
    """
    blocks: list[Block] = [Heading("Claims")]
    tested = _tested(decisions)
    for decision in decisions:
        blocks.append(Text(_details(decision, len(tested)), label=decision.verdict.capitalize()))
    if tested:
        blocks += [_table(tested, metric), _notes(tested, metric)]
    if not decisions and not undecidable:
        blocks.append(Text(NO_CLAIMS))
    if undecidable:
        blocks.append(Text(UNDECIDABLE, items=tuple(undecidable)))
    return blocks


def records(decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """Return the decisions as plain values, with a `sentence`; None for a missing number."""
    family = len(_tested(decisions))
    names = [
        field.name for field in fields(Decision) if field.name not in {"claim", "text", "caveat"}
    ]
    rows = []
    for decision in decisions:
        values = {name: plain(getattr(decision, name)) for name in names}
        rows.append({"claim": decision.text, "sentence": sentence(decision, family), **values})
    return rows


def files(decisions: Sequence[Decision]) -> dict[str, str]:
    """Return `claims.csv` at full precision; nothing without claims."""
    if not decisions:
        return {}
    return {"claims.csv": pd.DataFrame(records(decisions)).to_csv(index=False)}


def sentence(decision: Decision, family: int) -> str:
    """Return a decision as a sentence; `family` is the number of tested claims."""
    return f"{decision.verdict.capitalize()}: {_details(decision, family)}"


def _tested(decisions: Sequence[Decision]) -> list[Decision]:
    return [decision for decision in decisions if decision.verdict != NOT_TESTED]


def plain(value: Any) -> Any:
    """Return a document for JSON: None stands for each nan and each infinite number."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _details(decision: Decision, family: int) -> str:
    """Return the claim with the numbers that decide it, or with the reason why it is not tested.

    The caveat of the decision follows.
    """
    if decision.verdict == NOT_TESTED:
        return f"{decision.text} ({decision.reason})."
    caveat = f" {decision.caveat}" if decision.caveat else ""
    corrected = "Holm-corrected " if family > 1 else ""
    parts = [_pair(decision), f"{corrected}p {_compared(decision.p)}", _anytime(decision)]
    return f"{decision.text} ({'; '.join(parts)}){_seeds(decision)}.{caveat}"


def _pair(decision: Decision) -> str:
    """Return the effect in the pair that decides, such as `gain +0.13 [+0.10, +0.16] points`."""
    show = unit(decision.metric)
    missing = math.isnan(decision.estimate)
    effect = f"{_estimate(decision)} {_interval(decision)}"
    effect += "" if decision.is_ratio else f" {show.difference}"
    if decision.pairs == 1:
        only = f"only pair: {_name(decision)}, " if "*" in decision.claim.text else ""
        return only + (decision.reason if missing else effect)
    role = "clearest against it" if decision.verdict == CONTRADICTED else "least clear"
    value = "" if missing else f", {effect}"
    reason = f"; {decision.reason}" if decision.reason else ""
    return f"{role} of {decision.pairs} pairs: {_name(decision)}{value}{reason}"


def _name(decision: Decision) -> str:
    """Return the labels of the pair; without the base if the claim has only one base."""
    base = decision.claim.base
    if isinstance(base, str) and base and "*" not in base:
        return decision.arm
    return f"{decision.arm} against {decision.base}"


def _estimate(decision: Decision) -> str:
    """Return the effect, such as `gain +0.13` or `ratio 0.56`."""
    if math.isnan(decision.estimate):
        return "-"
    if decision.is_ratio:
        return f"ratio {decision.estimate:#.3g}"
    return f"gain {unit(decision.metric).show(decision.estimate, signed=True)}"


def _interval(decision: Decision) -> str:
    if decision.is_ratio and not math.isnan(decision.ci_lo):
        return f"[{decision.ci_lo:#.3g}, {decision.ci_hi:#.3g}]"
    return unit(decision.metric).interval(decision.ci_lo, decision.ci_hi, signed=True)


def _anytime(decision: Decision) -> str:
    """Return the anytime-valid p-value, and its verdict if it differs from the other verdict."""
    differs = decision.anytime_verdict != decision.verdict
    verdict = f", {decision.anytime_verdict}" if differs else ""
    return f"anytime-valid p {_compared(decision.anytime_p)}{verdict}"


def _compared(p: float) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def _seeds(decision: Decision) -> str:
    """Return how many seeds would decide an inconclusive claim; empty if it is not known."""
    if decision.verdict != INCONCLUSIVE or math.isnan(decision.estimate):
        return ""
    if decision.ci_lo == decision.ci_hi:  # all gains are equal, so their SD is unknown
        return ""
    if decision.seeds is None:
        return f"; more than {MOST} seeds would be needed to decide it"
    return f"; about {counted(decision.seeds, 'seed')} would decide it"


def _table(decisions: Sequence[Decision], metric: str) -> Table:
    return Table(
        name="claims",
        header=HEADER,
        rows=[_row(decision, metric) for decision in decisions],
        text=(0, 1, 2, 7),
        bold={(i, 1) for i, row in enumerate(decisions) if row.verdict != INCONCLUSIVE},
        caption="Decisions on the claims.",
    )


def _row(decision: Decision, metric: str) -> list[str]:
    other = f" {words(decision.metric)}" if decision.metric != metric else ""
    return [
        decision.claim.text,
        decision.verdict,
        _name(decision),
        str(decision.n),
        _estimate(decision) + other,
        _interval(decision),
        probability(decision.p),
        decision.anytime_verdict,
        "-" if decision.seeds is None else str(decision.seeds),
    ]


def _notes(decisions: Sequence[Decision], metric: str) -> Text:
    notes = [
        f"The effect is over n common seeds. The metric is the {words(metric)}, unless the claim "
        "names another one. A gain is the mean difference of the arm from the base, positive if the "
        "arm is better. A ratio is the value of the arm divided by that of the base, as a geometric "
        "mean over the seeds. It is below 1 if the arm is better, and its t-test is computed from "
        "the logarithms. The intervals are not corrected.",
        "p is twice the smaller p-value of two one-sided paired t-tests, one for the claim and one "
        f"against it, Holm-corrected over {counted(len(decisions), 'tested claim')}. The verdict is "
        "at the 5% level. It is valid if the number of seeds was chosen before the results were "
        "seen.",
        "The anytime-valid verdict and p-value are computed from e-processes. They are also "
        "valid if seeds were added after looking at the results, and they need more seeds.",
    ]
    if any(decision.pairs > 1 for decision in decisions):
        notes.append(
            "A claim about several pairs is supported if every pair supports it, and contradicted "
            "if one pair contradicts it (its p-value is multiplied by the number of pairs). The "
            "table shows the pair that supports the claim least or, if the claim is contradicted, "
            "the pair that is clearest against it."
        )
    if any(decision.seeds for decision in decisions):
        notes.append(
            "Seeds to decide: with this number of seeds, the test has 80% power if the mean and "
            "the standard deviation of the gains are the observed ones."
        )
    notes.append(
        "A trial that diverged, ran out of memory or failed counts as the worst result of its "
        "seed. A pair with such a trial has no mean gain and is decided by a rank test."
    )
    return Text("Notes on the claims:", note=True, items=tuple(notes))
