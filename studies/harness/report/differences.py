"""Tables of differences, paired by seed: every arm against a reference, and every level against the recipe's value."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.contrasts import Pair
from studies.harness.evidence.metrics import few, higher_is_better, probability, unit
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.statistics.paired import ALPHA

NOT_CORRECTED = (
    "The intervals are not corrected; a dash: all differences are equal, so that there is nothing to test with."
)


def differences(evidence: Evidence) -> list[Block]:
    """Return both tables, each if it has a row."""
    return [*_to_references(evidence), *_to_centres(evidence)]


def _to_references(evidence: Evidence) -> list[Block]:
    rows, bases = evidence.references.pairs, evidence.references.bases
    if not rows:
        return []
    title = bases[0] if len(bases) == 1 else f"{bases[0].partition(' ')[0]} at the same level"
    note = (
        f"Arm - {title}, on the seeds that both completed: paired t test, p-values by Holm over all "
        f"{evidence.references.tests} pairs of arms with two common seeds. {NOT_CORRECTED}"
    )
    finding = Text(_finding(rows, title, evidence.metric), found=True)
    return [*_blocks("differences", f"Differences to {title}", evidence.metric, rows, note), finding]


def _finding(rows: Sequence[Pair], title: str, metric: str) -> str:
    """Return `Better than sgd: foof; not told from sgd: 8 arms.`"""
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not told from": []}
    for row in rows:
        better = (row.difference > 0) == higher_is_better(metric)
        significant = row.p_holm <= ALPHA  # nan is not
        kinds["not told from" if not significant else "better than" if better else "worse than"].append(row.arm)
    text = "; ".join(f"{kind} {title}: {few(arms)}" for kind, arms in kinds.items() if arms)
    return f"{text[0].upper()}{text[1:]}."


def _to_centres(evidence: Evidence) -> list[Block]:
    if not evidence.centres.pairs:
        return []
    note = (
        f"Each level - the recipe's of the same optimizer ({', '.join(evidence.centres.bases)}), on the seeds that "
        f"both completed: paired t test, p-values by Holm over the {evidence.centres.tests} differences of this table. "
        f"{NOT_CORRECTED}"
    )
    return _blocks("centres", "Differences to the recipe's values", evidence.metric, evidence.centres.pairs, note)


def _blocks(name: str, title: str, metric: str, rows: Sequence[Pair], note: str) -> list[Block]:
    show = unit(metric)
    header = ["arm", "common seeds", f"difference ({show.difference})", "95% t-interval", "p (Holm)"]
    cells = [
        [
            row.arm,
            str(row.n),
            show.show(row.difference, signed=True),
            show.interval(row.ci_lo, row.ci_hi, signed=True),
            probability(row.p_holm),
        ]
        for row in rows
    ]
    caption = f"{title} in {show.difference}, paired by seed."
    return [Heading(title), Table(name=name, header=header, rows=cells, caption=caption), Text(note, note=True)]
