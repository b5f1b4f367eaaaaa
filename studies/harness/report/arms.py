"""The arms and their differences, for a report, the terminal, CSV files and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from precond.counts import counted
from studies.harness.design.result import Listing
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import BEST, SECONDS
from studies.harness.evidence.contrasts import Differences, Pair, beaten
from studies.harness.evidence.metrics import (
    FEW,
    Unit,
    few,
    higher_is_better,
    join_words,
    probability,
    unit,
    words,
)
from studies.harness.evidence.status import UNFINISHED
from studies.harness.report import claims, notes
from studies.harness.report.document import Block, Heading, Table, Text

UNCORRECTED = "The intervals are not corrected for multiple comparisons."
NO_TEST = "A dash means that no test is possible, because there are fewer than two common seeds."
FAILURES = (
    "If a trial on a common seed ended without a result, there is no mean difference. The row shows "
    "on how many of the common seeds the arm is better, where such a trial is the worst; the "
    "p-value is that of a rank test."
)
BETTER, NOT_COMPLETED = "better than", "not completed"
TEXTS = ("arm", BETTER, NOT_COMPLETED)  # the columns of the table that are not numbers
Arm = Mapping[Any, Any]  # a row of `Evidence.arms`


def table(evidence: Evidence, name: str, title: str) -> Table:
    """Return the table of the arms, with a LaTeX label and a title."""
    show = unit(evidence.metric)
    header = [
        "arm",
        "n",
        show.mean,
        "sd",
        "95% interval",
        "best epoch (optimistic)",
        "s/epoch (shared machine)",
    ]
    rows = [_row(arm, show) for arm in evidence.arms.to_dict("records")]
    if losers := beaten(evidence.pairs):
        header.append(BETTER)
        rows = [[*row, few(losers[row[0]]) if row[0] in losers else ""] for row in rows]
    header, rows = _with_notes(evidence, header, rows)
    metric = words(evidence.metric)
    return Table(
        name,
        header,
        rows,
        text=tuple(i for i, name in enumerate(header) if name in TEXTS),
        muted=(5, 6),
        bold=_bold(evidence),
        caption=f"{title}: last-epoch {metric}, mean over n completed trials with its 95% interval.",
    )


def caption(evidence: Evidence) -> Text:
    """Return the notes below the table."""
    return Text("Notes on the table:", note=True, items=notes.notes(evidence))


def best(evidence: Evidence) -> list[Text]:
    """Return the finding about the bold arms, as a list with at most one text.

    The list is empty for a single arm with two or more completed seeds, and if each arm that is
    significantly better than another one is also significantly worse than one.
    """
    if not notes.testable(evidence):
        text = (
            "Differences between arms cannot be tested, because all pairs of arms have fewer than "
            "two common seeds."
        )
        if max(evidence.arms["n"]) < 2:
            text = (
                "Fewer than two seeds have completed, so differences between arms cannot be tested."
            )
        elif len(evidence.arms) == 1:
            return []
        return [Text(text, finding=True)]
    losers = beaten(evidence.pairs)
    arms = list(evidence.arms.loc[evidence.arms["bold"], "arm"])
    if not losers:
        return [Text(f"No two arms are significantly different ({notes.TESTS}).", finding=True)]
    if len(arms) > FEW:
        better = f"{counted(len(arms), 'arm')} are significantly better than at least one other arm"
    else:
        better = "; ".join(f"{arm} is significantly better than {few(losers[arm])}" for arm in arms)
    base = "these" if len(arms) > FEW else join_words(arms, "or")
    text = f"{better}; no arm is significantly better than {base} ({notes.TESTS})."
    return [Text(text, finding=True)] if arms else []


def listing(evidence: Evidence, title: str) -> Listing:
    """Return the table for the terminal."""
    show = unit(evidence.metric)
    header = ["arm", "n", show.mean, "sd", "95% interval", "best"]
    rows = [
        [*_row(arm, show)[:5], show.show(arm[BEST])] for arm in evidence.arms.to_dict("records")
    ]
    header, rows = _with_notes(evidence, header, rows)
    bold = _bold(evidence)
    direction = "" if higher_is_better(evidence.metric) else "Smaller values are better. "
    meaning = "Bold: significantly better than another arm and not significantly worse than any. "
    return Listing(
        title=title,
        header=header,
        rows=rows,
        text=(0, 6),
        muted=(5,),
        warnings=(6,),
        bold=bold,
        caption=f"Last-epoch {words(evidence.metric)}: mean over n completed trials with its 95% interval. "
        f"{direction}{meaning if bold else ''}best: mean of each trial's best epoch, selected on the test set.",
    )


def files(evidence: Evidence) -> dict[str, str]:
    """Return CSV files at full precision by name: trials, arms, and all pairs of arms."""
    tables = {"trials": evidence.frame, "arms": evidence.arms, "differences": evidence.pairs}
    return {f"{name}.csv": table.to_csv(index=False) for name, table in tables.items()}


def record(evidence: Evidence, name: str) -> str:
    """Return one line of JSON: the study's name, and a record for each claim and for each arm."""
    arms = json.loads(evidence.arms.to_json(orient="records") or "[]")
    return json.dumps({"study": name, "claims": claims.records(evidence.claims), "arms": arms})


def _bold(evidence: Evidence) -> set[tuple[int, int]]:
    return {(i, 2) for i, bold in enumerate(evidence.arms["bold"]) if bold}


def _row(arm: Arm, show: Unit) -> list[str]:
    """Return the cells of an arm in the table; a dash for a missing value."""
    return [
        arm["arm"],
        str(arm["n"]),
        show.show(arm["mean"]),
        show.show(arm["sd"]),
        show.interval(arm["ci_lo"], arm["ci_hi"]),
        show.show(arm[BEST]),
        "-" if math.isnan(arm[SECONDS]) else f"{arm[SECONDS]:.2f}",
    ]


def _with_notes(
    evidence: Evidence, header: list[str], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return a table with a column of the trials that did not complete: `1 of 5 diverged`."""
    notes = [
        [f"{arm[status]} of {arm['planned']} {status}" for status in UNFINISHED if arm[status]]
        for arm in evidence.arms.to_dict("records")
    ]
    if not any(notes):
        return header, rows
    return [*header, NOT_COMPLETED], [
        [*row, ", ".join(note)] for row, note in zip(rows, notes, strict=True)
    ]


# ---------------------------------------------------------------------- differences


def differences(evidence: Evidence) -> list[Block]:
    """Return the tables of differences from the references and from the recipe's values."""
    return [*_to_references(evidence), *_to_centres(evidence)]


def _to_references(evidence: Evidence) -> list[Block]:
    rows, bases = evidence.references.pairs, evidence.references.bases
    if not rows:
        return []
    title = bases[0] if len(bases) == 1 else f"{bases[0].partition(' ')[0]} at the same level"
    note = (
        f"The difference is the mean of the arm minus the mean of {title}, over the seeds that both "
        "completed."
    )
    finding = _finding(rows, title)
    return [
        *_blocks("differences", f"Differences from {title}", evidence, evidence.references, note),
        *([Text(finding, finding=True)] if finding else []),
    ]


def _finding(rows: Sequence[Pair], title: str) -> str:
    """Return a sentence that lists the arms that are significantly better, worse or not different.

    Arms that cannot be tested are left out. The sentence is empty if no arm can be tested.
    """
    better, worse = "significantly better than", "significantly worse than"
    same = "not significantly different from"
    kinds: dict[str, list[str]] = {better: [], worse: [], same: []}
    for row in (row for row in rows if not math.isnan(row.p_adjusted)):
        order = better if row.leader == row.arm else worse
        kinds[order if row.significant else same].append(row.arm)
    clauses = [
        f"{few(arms)} {'is' if len(arms) == 1 else 'are'} {kind} {title}"
        for kind, arms in kinds.items()
        if arms
    ]
    return f"{'; '.join(clauses)} (paired tests, Holm-corrected over the rows)." if clauses else ""


def _to_centres(evidence: Evidence) -> list[Block]:
    if not evidence.centres.pairs:
        return []
    note = (
        "The difference is the mean at each level minus the mean at the recipe's value for the same "
        f"optimizer ({', '.join(evidence.centres.bases)}), over the seeds that both completed."
    )
    title = "Differences from the recipe's values"
    return _blocks("centres", title, evidence, evidence.centres, note)


def _blocks(
    name: str, title: str, evidence: Evidence, differences: Differences, note: str
) -> list[Block]:
    """Return the table of differences with its notes; its p-values are one family."""
    show, rows = unit(evidence.metric), differences.pairs
    header = [
        "arm",
        "common seeds",
        f"difference ({show.difference})",
        "95% t-interval",
        "p (Holm)",
    ]
    cells = [
        [
            row.arm,
            str(row.n),
            f"better on {row.wins} of {row.n}"
            if row.failures
            else show.show(row.difference, signed=True),
            show.interval(row.ci_lo, row.ci_hi, signed=True),
            probability(row.p_adjusted),
        ]
        for row in rows
    ]
    if differences.tests:
        note += (
            " The p-values are those of paired t-tests, Holm-corrected over the "
            f"{counted(differences.tests, 'difference')} of this table only. {UNCORRECTED}"
        )
    if any(row.failures for row in rows):
        note += f" {FAILURES}"
    if any(math.isnan(row.p) for row in rows):
        note += f" {NO_TEST}"
    return [
        Heading(title),
        Table(name, header, cells, caption=f"{title} in {show.difference}, paired by seed."),
        Text(note, note=True),
    ]
