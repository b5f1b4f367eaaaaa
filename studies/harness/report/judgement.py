"""The verdicts of a judgement as the blocks of a report, and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.design.result import Listing
from studies.harness.evidence.judgement import Combination, Effect, Verdict
from studies.harness.evidence.metrics import unit
from studies.harness.evidence.scale import Scale
from studies.harness.report.document import Block, Details, Heading, Picture, Table, Text
from studies.harness.report.judgement_sentences import (
    e_text,
    effect_text,
    noun,
    sentences,
    threshold_text,
    unit_text,
)

HEADER, TEXT = ["candidate", "decision", "n", "effect", "e", "needs", "W/L/T"], (0, 1)
NO_PAIRS = "There is no table yet, because no pair of seeds has ended on all workloads."


def blocks(
    verdicts: Sequence[Verdict],
    combine: Combination = "average",
    *,
    problem: str = "",
    notes: Sequence[str] = (),
    costs: Sequence[str] = (),
    pictures: Sequence[str] = (),
) -> list[Block]:
    """Return the content of a report.

    Args:
        verdicts: The verdict on each candidate.
        combine: The combination of the e-values of several workloads.
        problem: The reason why no decision is possible, or an empty text.
        notes: Sentences about the judgement, such as its number in the ledger.
        costs: Sentences about time and memory.
        pictures: The names of the figures.
    """
    lines = tuple(sentences(verdicts, combine))
    content: list[Block] = [
        *([Text(problem, label="Problem", finding=True)] if problem else []),
        *([Text("", items=lines, finding=True)] if lines else []),
        *([Text("", items=tuple(notes), finding=True)] if notes else []),
        *(Picture(name, f"Figure: {name.replace('_', ' ')}") for name in pictures),
        Heading("Results"),
    ]
    if rows(verdicts):
        content += [
            Table("judgement", HEADER, rows(verdicts), TEXT),
            Text(caption(verdicts), note=True),
            Text("`row.md` has these results as a table to copy.", note=True),
        ]
    else:
        content.append(Text(NO_PAIRS, note=True))
    if costs:
        content += [Heading("Time and memory"), Text("", items=tuple(costs), finding=True)]
    return [*content, Details("How the decisions are made", (_method(verdicts, combine),))]


def listing(verdicts: Sequence[Verdict], title: str) -> Listing | None:
    """Return the table for the terminal; None if no pair has ended."""
    if not rows(verdicts):
        return None
    return Listing(
        title=title,
        header=HEADER,
        rows=rows(verdicts),
        text=TEXT,
        caption=caption(verdicts),
    )


def rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return the rows of the table; no rows if no pair has ended.

    With a single workload, a candidate has one row. With several workloads, it has a row with the
    decision, and a row with the effect on each workload.
    """
    table = []
    for verdict in verdicts if any(verdict.pairs for verdict in verdicts) else ():
        first = [verdict.candidate, verdict.decision, str(verdict.pairs)]
        evidence = [e_text(verdict.e), threshold_text(verdict)]
        effects = [
            (effect_text(effect), "/".join(map(str, counts(effect)))) for effect in verdict.effects
        ]
        if len(effects) == 1:
            [(text, numbers)] = effects
            table.append([*first, text, *evidence, numbers])
            continue
        table.append([*first, "", *evidence, ""])
        for effect, (text, numbers) in zip(verdict.effects, effects, strict=True):
            table.append([effect.scale.workload, noun(effect.scale), "", text, "", "", numbers])
    return table


def caption(verdicts: Sequence[Verdict]) -> str:
    """Return the explanation of the columns."""
    effects = [_explained(effect.scale, verdicts[0].baseline) for effect in verdicts[0].effects]
    return (
        f"n: paired seeds. Effect: {', or '.join(dict.fromkeys(effects))}, with its confidence "
        "sequence (once it is finite), which is valid after any number of seeds. e: the largest "
        "e-value, the evidence against equal means; needs: the value of e that decides. W/L/T: the "
        "numbers of seeds on which the candidate is better, worse and equal."
    )


def counts(effect: Effect) -> tuple[int, int, int]:
    """Return the numbers of seeds on which the candidate is better, worse and equal."""
    gains = effect.gains
    return int((gains > 0).sum()), int((gains < 0).sum()), int((gains == 0).sum())


def _explained(scale: Scale, baseline: str) -> str:
    """Return the definition of the effect on a workload."""
    if scale.ratio:
        return f"the {noun(scale)} divided by that of {baseline} (geometric mean over the seeds)"
    in_unit = f", in{unit_text(scale)}" if unit(scale.metric).percent else ""
    return f"the {noun(scale)} minus that of {baseline}{in_unit} (mean over the seeds)"


def _method(verdicts: Sequence[Verdict], combine: Combination) -> Text:
    """Return notes on the test, for readers of the report alone."""
    notes = [
        "Both sides are trained with the same seeds. After each pair, an e-process tests whether "
        "the mean gain differs from 0. If it does not, the probability that e ever reaches the "
        "threshold is at most 1 / threshold, so the test is valid after any number of seeds.",
        "The confidence sequence has the same error. A candidate is equal to the baseline if its "
        "confidence sequence is inside the margin.",
        "The threshold is larger if there are other candidates, or earlier attempts against the "
        "baseline.",
        "A trial that diverged, ran out of memory or failed loses its pair. The mean does not "
        "include this pair. Where gains are judged by their signs, the confidence sequence is that "
        "of their median.",
    ]
    if verdicts and len(verdicts[0].effects) > 1:
        notes.append(
            f"The e-value is the {combine} of those of the workloads. A decision says that the "
            "workloads together show a difference, which may come from some of them."
        )
    return Text("Notes on the decisions:", note=True, items=tuple(notes))
