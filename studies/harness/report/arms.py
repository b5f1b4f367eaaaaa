"""The arms and their differences: tables and sentences of a report, a terminal's table, CSV files and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from studies.harness.design.result import Listing
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import BEST, SECONDS
from studies.harness.evidence.contrasts import Pair
from studies.harness.evidence.metrics import Unit, few, higher_is_better, probability, unit, words
from studies.harness.evidence.status import UNFINISHED
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.statistics.paired import ALPHA

UNCORRECTED = (
    "The intervals are not corrected; a dash: all differences are equal, "
    "so that there is nothing to test with."
)
HOLM = "paired by seed, Holm over all pairs at 5%"
Arm = Mapping[Any, Any]  # a row of `Evidence.arms`


def table(evidence: Evidence, name: str, title: str) -> Table:
    """Return the table of a report, with a LaTeX label and a title."""
    show = unit(evidence.metric)
    header = [
        "arm",
        "n",
        show.mean,
        "sd",
        "95% t-interval",
        "best epoch on test",
        "s/epoch (co-located)",
    ]
    rows = [_row(arm, show) for arm in evidence.arms.to_dict("records")]
    return Table(
        name,
        *_with_notes(evidence, header, rows),
        text=(0, 7),
        muted=(5, 6),
        bold=_bold(evidence),
        caption=f"{title}: last-epoch {words(evidence.metric)}, mean over n seeds with its 95% t-interval.",
    )


def caption(evidence: Evidence) -> Text:
    """Return the small print below the table."""
    sizes = list(evidence.arms["n"])
    n = (
        f"n = {sizes[0]}"
        if min(sizes) == max(sizes)
        else f"n between {min(sizes)} and {max(sizes)}"
    )
    percent = " in percent" if unit(evidence.metric).scale == 100 else ""
    sentences = [
        f"Last-epoch {words(evidence.metric)}{percent}: mean and sample standard deviation over seeds ({n} completed "
        "per arm; other trials are counted, never averaged), with the 95% Student t interval of the mean.",
        power(evidence),
        "Bold: beats another arm and is beaten by none, paired by seed, Holm over all pairs at 5%; an arm with "
        "diverged trials never is.",
        "Best epoch on test: the best test value of each run, and its optimism over the last epoch; chosen on the test "
        "set, so no result.",
        "Seconds are the last epoch's, measured beside other trials on the same machine: not comparable between arms.",
    ]
    return Text(" ".join(filter(None, sentences)), note=True)


def power(evidence: Evidence) -> str:
    """Return `n = 5; seed SD = 0.17 points; smallest difference detectable ...`; nothing without two seeds."""
    detectable, show = evidence.power, unit(evidence.metric)
    if detectable is None:
        return ""
    paired = ""
    if not math.isnan(detectable.paired):
        paired = f" / {show.show(detectable.paired)} (paired by seed, correlation {detectable.correlation:.2f})"
    return (
        f"n = {detectable.n}; seed SD = {show.show(detectable.sd)} {show.difference}, pooled over arms; smallest "
        f"difference detectable with 80% power by one test at 5% = {show.show(detectable.unpaired)} (unpaired){paired}."
    )


def best(evidence: Evidence) -> list[Text]:
    """Return a sentence with the bold arms; nothing if arms with lost trials, which never are, beat the others."""
    if max(evidence.arms["n"]) < 2:
        return [
            Text("Fewer than two completed seeds: no arm can be told from another.", found=True)
        ]
    if names := list(evidence.arms.loc[evidence.arms["bold"], "arm"]):
        return [
            Text(f"Better than some arm and worse than none: {few(names)} ({HOLM}).", found=True)
        ]
    return [] if evidence.lost else [Text(f"No arm is told from another ({HOLM}).", found=True)]


def listing(evidence: Evidence, title: str) -> Listing:
    """Return the table for a terminal."""
    show = unit(evidence.metric)
    header = ["arm", "n", show.mean, "sd", "95% t-interval", "best"]
    rows = [
        [*_row(arm, show)[:5], show.show(arm[BEST])] for arm in evidence.arms.to_dict("records")
    ]
    header, rows = _with_notes(evidence, header, rows)
    return Listing(
        title=title,
        header=header,
        rows=rows,
        text=(0, 6),
        muted=(5,),
        warnings=(6,),
        bold=_bold(evidence),
        caption=f"last-epoch {words(evidence.metric)} over n seeds, 95% Student t interval; bold: beaten by none "
        "(Holm); best: the best epoch on test, no result",
    )


def files(evidence: Evidence) -> dict[str, str]:
    """Return the tables at full precision as CSV files by name: trials, arms, and every pair of arms."""
    tables = {"trials": evidence.frame, "arms": evidence.arms, "differences": evidence.pairs}
    return {f"{name}.csv": table.to_csv(index=False) for name, table in tables.items()}


def record(evidence: Evidence, name: str) -> str:
    """Return the table as one line of JSON: the study's name, and a record for each arm."""
    return json.dumps(
        {"study": name, "arms": json.loads(evidence.arms.to_json(orient="records") or "[]")}
    )


def _bold(evidence: Evidence) -> set[tuple[int, int]]:
    return {(i, 2) for i, bold in enumerate(evidence.arms["bold"]) if bold}


def _row(arm: Arm, show: Unit) -> list[str]:
    """Return arm, n, mean, sd, interval, best epoch with its optimism, seconds; a dash for what is not known."""
    optimism = arm[BEST] - arm["mean"]
    best = (
        "-"
        if math.isnan(optimism)
        else f"{show.show(arm[BEST])} ({show.show(optimism, signed=True)})"
    )
    seconds = "-" if math.isnan(arm[SECONDS]) else f"{arm[SECONDS]:.2f}"
    interval = show.interval(arm["ci_lo"], arm["ci_hi"])
    return [
        arm["arm"],
        str(arm["n"]),
        show.show(arm["mean"]),
        show.show(arm["sd"]),
        interval,
        best,
        seconds,
    ]


def _with_notes(
    evidence: Evidence, header: list[str], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return a table with a column of the planned trials that are not in each arm's mean: `1 of 5 diverged`."""
    arms = evidence.arms.to_dict("records")
    parts = [
        [f"{arm[status]} of {arm['planned']} {status}" for status in UNFINISHED if arm[status]]
        for arm in arms
    ]
    if not any(parts):
        return header, rows
    return [*header, "not completed"], [
        [*row, ", ".join(part)] for row, part in zip(rows, parts, strict=True)
    ]


# ---------------------------------------------------------------------- differences


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
        f"{evidence.references.tests} pairs of arms with two common seeds. {UNCORRECTED}"
    )
    finding = Text(_finding(rows, title, evidence.metric), found=True)
    return [
        *_blocks("differences", f"Differences to {title}", evidence.metric, rows, note),
        finding,
    ]


def _finding(rows: Sequence[Pair], title: str, metric: str) -> str:
    """Return `Better than sgd: foof; not told from sgd: 8 arms.`"""
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not told from": []}
    for row in rows:
        order = "better than" if (row.difference > 0) == higher_is_better(metric) else "worse than"
        kinds[order if row.p_holm <= ALPHA else "not told from"].append(
            row.arm
        )  # nan is not significant
    text = "; ".join(f"{kind} {title}: {few(arms)}" for kind, arms in kinds.items() if arms)
    return f"{text[0].upper()}{text[1:]}."


def _to_centres(evidence: Evidence) -> list[Block]:
    if not evidence.centres.pairs:
        return []
    note = (
        f"Each level - the recipe's of the same optimizer ({', '.join(evidence.centres.bases)}), on the seeds that "
        f"both completed: paired t test, p-values by Holm over the {evidence.centres.tests} differences of this table. "
        f"{UNCORRECTED}"
    )
    return _blocks(
        "centres",
        "Differences to the recipe's values",
        evidence.metric,
        evidence.centres.pairs,
        note,
    )


def _blocks(name: str, title: str, metric: str, rows: Sequence[Pair], note: str) -> list[Block]:
    show = unit(metric)
    header = [
        "arm",
        "common seeds",
        f"difference ({show.difference})",
        "95% t-interval",
        "p (Holm)",
    ]
    cells = []
    for row in rows:
        interval = show.interval(row.ci_lo, row.ci_hi, signed=True)
        difference = show.show(row.difference, signed=True)
        cells.append([row.arm, str(row.n), difference, interval, probability(row.p_holm)])
    caption = f"{title} in {show.difference}, paired by seed."
    return [
        Heading(title),
        Table(name=name, header=header, rows=cells, caption=caption),
        Text(note, note=True),
    ]
