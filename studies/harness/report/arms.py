"""The arms and their differences, for a report, the terminal, CSV files and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from studies.harness.design.result import Listing
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import BEST, SECONDS
from studies.harness.evidence.contrasts import Pair
from studies.harness.evidence.metrics import (
    FEW,
    Unit,
    count,
    few,
    higher_is_better,
    join_words,
    probability,
    unit,
    words,
)
from studies.harness.evidence.status import IN_FLIGHT, UNFINISHED
from studies.harness.report import claims
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.statistics.paired import ALPHA

UNCORRECTED = "The intervals are not corrected for multiple comparisons."
NO_TEST = (
    "A dash means that no test is possible: there are fewer than two common seeds, or the "
    "difference is equal for all seeds."
)
AS_RELEASED = (
    "Arms that are called as-released follow the paper's released code, or the paper if there is no "
    "code; the other arms follow this project's definitions. Only arms that are called as-released "
    "are compared with published numbers."
)
TESTS = "paired t-tests by seed, Holm-corrected over all pairs of arms, 5% level"
Arm = Mapping[Any, Any]  # a row of `Evidence.arms`


def table(evidence: Evidence, name: str, title: str) -> Table:
    """Return the table of the arms, with a LaTeX label and a title."""
    show = unit(evidence.metric)
    header = [
        "arm",
        "n",
        show.mean,
        "sd",
        "95% t-interval",
        "best epoch (optimistic)",
        "s/epoch (shared machine)",
    ]
    rows = [_row(arm, show) for arm in evidence.arms.to_dict("records")]
    metric = words(evidence.metric)
    return Table(
        name,
        *_with_notes(evidence, header, rows),
        text=(0, 7),
        muted=(5, 6),
        bold=_bold(evidence),
        caption=f"{title}: last-epoch {metric}, mean over n seeds with its 95% t-interval.",
    )


def caption(evidence: Evidence) -> Text:
    """Return the notes below the table."""
    sizes = list(evidence.arms["n"])
    smallest, largest = min(sizes), max(sizes)
    n = f"n = {smallest}" if smallest == largest else f"n is between {smallest} and {largest}"
    percent = " in percent" if unit(evidence.metric).percent else ""
    variants = f" {AS_RELEASED}" if any(evidence.arms["as_released"]) else ""
    bold = (
        "A bold mean is significantly better than that of at least one other arm and not "
        f"significantly worse than any ({TESTS}). Arms with trials that diverged or ran out of "
        "memory are never bold."
    )
    in_flight = ""
    if any(evidence.arms[IN_FLIGHT]):
        in_flight = " A trial in flight is being trained, or was interrupted."
    direction = "" if higher_is_better(evidence.metric) else " Smaller values are better."
    notes = [
        "Each row is an arm: an optimizer with its settings, trained once for each seed. Each of "
        f"these trainings is a trial.{variants}",
        f"The mean, the sample standard deviation (sd) and the 95% Student t-interval of the mean "
        f"are those of the last-epoch {words(evidence.metric)}{percent} over the n completed trials "
        f"of an arm ({n}). Trials that did not complete are counted, but no mean includes them."
        f"{in_flight}{direction}",
        power(evidence),
        bold if evidence.references.tests else "",
        "The best epoch is the mean over trials of the best test value of any epoch, with the "
        "difference from the last epoch in parentheses. It is selected on the test set, so it is "
        "not a result.",
        "s/epoch is the training time of the last epoch. It cannot be compared between arms, "
        "because other trials ran on the same machine at the same time.",
    ]
    return Text("Notes on the table:", note=True, items=tuple(filter(None, notes)))


def power(evidence: Evidence) -> str:
    """Return a sentence about the smallest detectable difference; empty without two seeds."""
    detectable, show = evidence.power, unit(evidence.metric)
    if detectable is None:
        return ""
    paired = ""
    if not math.isnan(detectable.paired):
        paired = (
            f", and {show.show(detectable.paired)} if it is paired by seed (the correlation "
            f"between arms is {detectable.correlation:.2f})"
        )
    return (
        f"With {detectable.n} seeds and a standard deviation over seeds of "
        f"{show.show(detectable.sd)} {show.difference} (pooled over arms), the smallest difference "
        f"that one t-test at the 5% level detects with 80% power is "
        f"{show.show(detectable.unpaired)} {show.difference} if the test is unpaired{paired}."
    )


def best(evidence: Evidence) -> list[Text]:
    """Return the finding about the bold arms, as a list with at most one text.

    The list is empty for a single arm with two or more completed seeds. It is also empty if no arm
    is bold and some trials ended without a result, because arms with such trials can differ
    significantly without being bold.
    """
    if max(evidence.arms["n"]) < 2:
        text = "Fewer than two seeds have completed, so differences between arms cannot be tested."
        return [Text(text, finding=True)]
    if not evidence.references.tests:
        text = (
            "Differences between arms cannot be tested: for every pair of arms, there are fewer than "
            "two common seeds, or the difference is equal for all seeds."
        )
        return [Text(text, finding=True)] if len(evidence.arms) > 1 else []
    arms = list(evidence.arms.loc[evidence.arms["bold"], "arm"])
    if not arms:
        text = f"No two arms are significantly different ({TESTS})."
        return [] if evidence.lost else [Text(text, finding=True)]
    if len(arms) > FEW:
        better = f"{count(len(arms), 'arm')} are significantly better than at least one other arm"
    else:
        better = "; ".join(
            f"{arm} is significantly better than {few(_worse(evidence, arm))}" for arm in arms
        )
    base = "these" if len(arms) > FEW else join_words(arms, "or")
    text = f"{better}; no arm is significantly better than {base} ({TESTS})."
    return [Text(text, finding=True)]


def _worse(evidence: Evidence, arm: str) -> list[str]:
    """Return the labels of the arms that are significantly worse than an arm."""
    pairs = evidence.pairs.loc[evidence.pairs["p_holm"] <= ALPHA]
    first_is_better = (pairs["difference"] > 0) == higher_is_better(evidence.metric)
    second = pairs.loc[first_is_better & (pairs["arm"] == arm), "other"]
    first = pairs.loc[~first_is_better & (pairs["other"] == arm), "arm"]
    return [*first, *second]


def listing(evidence: Evidence, title: str) -> Listing:
    """Return the table for the terminal."""
    show = unit(evidence.metric)
    header = ["arm", "n", show.mean, "sd", "95% t-interval", "best"]
    rows = [
        [*_row(arm, show)[:5], show.show(arm[BEST])] for arm in evidence.arms.to_dict("records")
    ]
    header, rows = _with_notes(evidence, header, rows)
    bold = _bold(evidence)
    direction = "" if higher_is_better(evidence.metric) else "Smaller values are better. "
    meaning = (
        "Bold: significantly better than another arm and not significantly worse than any "
        "(Holm-corrected). "
    )
    return Listing(
        title=title,
        header=header,
        rows=rows,
        text=(0, 6),
        muted=(5,),
        warnings=(6,),
        bold=bold,
        caption=f"Last-epoch {words(evidence.metric)}: mean over n seeds with its 95% t-interval. "
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
    optimism = arm[BEST] - arm["mean"]
    best = f"{show.show(arm[BEST])} ({show.show(optimism, signed=True)})"
    return [
        arm["arm"],
        str(arm["n"]),
        show.show(arm["mean"]),
        show.show(arm["sd"]),
        show.interval(arm["ci_lo"], arm["ci_hi"]),
        "-" if math.isnan(optimism) else best,
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
    return [*header, "not completed"], [
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
    if tests := evidence.references.tests:
        note += (
            " The p-values are those of paired t-tests, Holm-corrected over all "
            f"{count(tests, 'pair')} of arms that can be tested. {UNCORRECTED}"
        )
    finding = _finding(rows, title, evidence.metric)
    return [
        *_blocks("differences", f"Differences from {title}", evidence.metric, rows, note),
        *([Text(finding, finding=True)] if finding else []),
    ]


def _finding(rows: Sequence[Pair], title: str, metric: str) -> str:
    """Return a sentence that lists the arms that are significantly better, worse or not different.

    Arms that cannot be tested are left out. The sentence is empty if no arm can be tested.
    """
    better, worse = "significantly better than", "significantly worse than"
    same = "not significantly different from"
    kinds: dict[str, list[str]] = {better: [], worse: [], same: []}
    for row in (row for row in rows if not math.isnan(row.p_holm)):
        order = better if (row.difference > 0) == higher_is_better(metric) else worse
        kinds[order if row.p_holm <= ALPHA else same].append(row.arm)
    clauses = [
        f"{few(arms)} {'is' if len(arms) == 1 else 'are'} {kind} {title}"
        for kind, arms in kinds.items()
        if arms
    ]
    return f"{'; '.join(clauses)} (paired t-tests, Holm-corrected)." if clauses else ""


def _to_centres(evidence: Evidence) -> list[Block]:
    if not evidence.centres.pairs:
        return []
    note = (
        "The difference is the mean at each level minus the mean at the recipe's value for the same "
        f"optimizer ({', '.join(evidence.centres.bases)}), over the seeds that both completed."
    )
    if tests := evidence.centres.tests:
        note += (
            " The p-values are those of paired t-tests, Holm-corrected over the "
            f"{count(tests, 'difference')} of this table that can be tested. {UNCORRECTED}"
        )
    title = "Differences from the recipe's values"
    return _blocks("centres", title, evidence.metric, evidence.centres.pairs, note)


def _blocks(name: str, title: str, metric: str, rows: Sequence[Pair], note: str) -> list[Block]:
    show = unit(metric)
    difference = f"difference ({show.difference})"
    header = ["arm", "common seeds", difference, "95% t-interval", "p (Holm)"]
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
    return [
        Heading(title),
        Table(name, header, cells, caption=f"{title} in {show.difference}, paired by seed."),
        Text(f"{note} {NO_TEST}", note=True),
    ]
