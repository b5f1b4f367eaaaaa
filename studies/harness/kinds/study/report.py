"""The report of a study.

Reports contain no dates and no paths, so equal output folders give byte-identical reports.
"""

from __future__ import annotations

from studies.harness.design.result import Report
from studies.harness.evidence import arms, costs
from studies.harness.evidence.analysis import analyse
from studies.harness.evidence.status import FAILED
from studies.harness.kinds.study.figures import DiagnosticsFigure
from studies.harness.kinds.study.plan import StudyPlan
from studies.harness.report import arms as table
from studies.harness.report import claims, document, protocol, sections, tuning
from studies.harness.report import costs as seconds
from studies.harness.report.document import Block, Heading, Picture


def report(plan: StudyPlan) -> Report:
    """Write the report, its figures and its CSV files, and return the content of the report.

    `report.html` includes the pictures, and `report.tex` contains the tables. The CSV files have
    full precision: `claims.csv`, `trials.csv`, `arms.csv`, `differences.csv` (each pair of arms), `published.csv`
    if the paper has published numbers, and the files of the figures.
    """
    study, figure = plan.artefact, plan.figure
    evidence = analyse(plan.trials, plan.root, figure.metric, figure.references, study.claims)
    figures = (figure, DiagnosticsFigure(), *plan.extra_figures)
    extensions = [part.extend(plan, evidence) for part in figures]
    evidence = evidence.compared(study, [result for part in extensions for result in part.measured])
    drawn = [path for part in extensions for path in part.drawn]
    pictures = [path.stem for path in drawn if path.suffix == ".svg"]
    timed: list[Block] = []
    if study.timed and not figure.has_seconds:
        timed = seconds.blocks(costs.read(plan.trials, plan.root))
    blocks: list[Block] = [
        *claims.section(evidence.claims, study.undecidable, figure.metric),
        *protocol.facts(study),
        *protocol.paragraphs(study, plan.trials),
        *tuning.section(plan.trials),
        *(Picture(name, f"Figure: {name.replace('_', ' ')}") for name in pictures),
        Heading("Results"),
        table.table(evidence, study.name, study.title),
        table.caption(evidence),
        *table.best(evidence),
        *table.differences(evidence),
        *sections.levels(evidence),
        *sections.stability(evidence, figure.factor),
        *timed,
        *(block for part in extensions for block in part.blocks),
        *sections.published(evidence.published),
        protocol.provenance(evidence.frame),
    ]
    files = {name: content for part in extensions for name, content in part.files.items()}
    files = {
        **claims.files(evidence.claims),
        **table.files(evidence),
        **files,
        **sections.published_files(evidence.published),
    }
    return Report(
        files=document.write(plan.folder, study.title, blocks, drawn, files),
        claims=claims.records(evidence.claims),
        findings=document.findings(blocks),
        listing=table.listing(evidence, study.title),
        record=table.record(evidence, study.name),
        metrics=arms.metrics(evidence.frame, evidence.arms),
        failed=FAILED in evidence.lost,
    )
