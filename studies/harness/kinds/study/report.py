"""The report of a study: its claims, the main figure, the results, and sections of details.

Reports contain no dates and no paths, so equal output folders give byte-identical reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from precond.counts import counted
from studies.harness.design.result import Listing, Report
from studies.harness.evidence import arms, costs
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.claims import NOT_TESTED
from studies.harness.evidence.status import FAILED, IN_FLIGHT, NOT_RUN
from studies.harness.kinds.study import results
from studies.harness.kinds.study.figures import DiagnosticsFigure, Extension
from studies.harness.kinds.study.plan import StudyPlan
from studies.harness.report import arms as table
from studies.harness.report import claims, coverage, document, protocol, sections, tuning
from studies.harness.report import costs as seconds
from studies.harness.report.document import Block, Details, Heading, Picture, Table, Text, fold

NO_FIGURE = "There is no figure yet, because no trial has a result that it shows."


def report(plan: StudyPlan) -> Report:
    """Write the report, its figures and its CSV files, and return the content of the report.

    `report.html` includes the pictures, and `report.tex` contains the tables. The CSV files have
    full precision: `claims.csv`, `trials.csv`, `arms.csv`, `differences.csv` (each pair of arms),
    `published.csv` if the paper has published numbers, and the files of the figures.
    """
    study, figure = plan.artefact, plan.figure
    evidence = results.evidence(plan)
    figures = (figure, *plan.extra_figures, DiagnosticsFigure())
    extensions = [part.extend(plan, evidence) for part in figures]
    evidence = evidence.compared(study, [result for part in extensions for result in part.measured])
    listing = table.listing(evidence, study.title)
    blocks = [
        *_results(plan, evidence, extensions, listing),
        *_details(plan, evidence, extensions),
    ]
    files = {name: content for part in extensions for name, content in part.files.items()}
    files = {
        **claims.files(evidence.claims),
        **table.files(evidence),
        **files,
        **sections.published_files(evidence.published),
    }
    drawn = [path for part in extensions for path in part.drawn]
    return Report(
        files=document.write(plan.folder, study.title, blocks, drawn, files),
        claims=claims.records(evidence.claims),
        findings=document.findings(blocks),
        listing=listing,
        record=table.record(evidence, study.name),
        metrics=arms.metrics(evidence.frame, evidence.arms),
        failed=FAILED in evidence.lost,
    )


def _results(
    plan: StudyPlan, evidence: Evidence, extensions: Sequence[Extension], listing: Listing
) -> list[Block]:
    """Return the blocks that are always visible."""
    study, main = plan.artefact, extensions[0]
    decisions = claims.section(evidence.claims, study.undecidable, evidence.metric)
    return [
        *_selection(plan),
        *_fold_notes(decisions, "The decisions in numbers", tables=True),
        *_interim(evidence),
        *protocol.facts(study),
        *(_pictures(main)[:1] or [Text(NO_FIGURE, note=True)]),
        *_fold_notes(main.blocks, "Notes on the figure"),
        Heading("Results"),
        table.table(evidence, study.name, study.title),
        Text(listing.caption, note=True),
        *sections.without_value(evidence),
        *sections.coverage_line(evidence.published),
    ]


def _selection(plan: StudyPlan) -> list[Block]:
    """Return the options of a selection; nothing for the study's own plan."""
    if not plan.selection:
        return []
    folder = replace(plan, selection="").folder.name
    text = (
        f"`{plan.selection}`. This report contains the configurations that these options select. "
        f"The folder of the report of the whole study is `{folder}`."
    )
    return [Text(text, label="Selection")]


def _interim(evidence: Evidence) -> list[Block]:
    """Return a warning if the claims were decided before all planned trials have ended."""
    statuses = list(evidence.frame["status"])
    unfinished = statuses.count(IN_FLIGHT) + statuses.count(NOT_RUN)
    tested = any(decision.verdict != NOT_TESTED for decision in evidence.claims)
    if not tested or not unfinished:
        return []
    have = "has" if unfinished == 1 else "have"
    text = (
        f"{unfinished} of {counted(len(evidence.trials), 'planned trial')} {have} not ended. If you look "
        "at these verdicts and train more trials, only the anytime-valid verdicts hold."
    )
    return [Text(text, label="Interim", finding=True)]


def _fold_notes(blocks: Sequence[Block], title: str, *, tables: bool = False) -> list[Block]:
    """Return the blocks with the notes, and optionally the tables, in a closed section at the end."""
    closed = [
        block
        for block in blocks
        if (isinstance(block, Text) and block.note) or (tables and isinstance(block, Table))
    ]
    opened = [block for block in blocks if block not in closed]
    return [*opened, *([Details(title, tuple(closed))] if closed else [])]


def _details(plan: StudyPlan, evidence: Evidence, extensions: Sequence[Extension]) -> list[Block]:
    """Return the sections that a reader opens, in the order in which a reader needs them.

    The comparisons are exploratory. Their findings are on the terminal only without claims.
    """
    study, figure, no_claims = plan.artefact, plan.figure, not evidence.claims
    main, *others = extensions
    timed: list[Block] = []
    if study.timed and not figure.has_seconds:
        timed = seconds.blocks(costs.read(plan.trials, plan.root))
    notes = replace(table.caption(evidence), text="")
    pictures = [*_pictures(main)[1:], *(block for part in others for block in _pictures(part))]
    return [
        Heading("Details"),
        *fold(sections.stability(evidence, figure.factor), on_terminal=True),
        Details("Notes on the table", (*table.best(evidence), notes), no_claims),
        *fold(table.differences(evidence), on_terminal=no_claims),
        *fold(sections.levels(evidence), on_terminal=no_claims),
        *fold([block for part in others for block in part.blocks]),
        *fold(timed),
        *([Details("Other figures", tuple(pictures))] if pictures else []),
        *fold(sections.published(evidence.published), on_terminal=no_claims),
        *coverage.section(plan.trials, on_terminal=no_claims),
        protocol.section(study, plan.trials),
        *fold(tuning.section(plan.trials)),
        Details("Provenance", (protocol.provenance(evidence.frame),)),
    ]


def _pictures(extension: Extension) -> list[Block]:
    names = [path.stem for path in extension.drawn if path.suffix == ".svg"]
    return [Picture(name, f"Figure: {name.replace('_', ' ')}") for name in names]
