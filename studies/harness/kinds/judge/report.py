"""The report of a judgement.

The files contain no dates, hosts or paths, so equal output folders give byte-identical files.
"""

from __future__ import annotations

from studies.harness.design.result import Report
from studies.harness.kinds.judge.judge_plan import JudgePlan
from studies.harness.kinds.judge.results import results
from studies.harness.report import document, judgement, judgement_files
from studies.harness.report.figures.judgement import draw


def report(plan: JudgePlan) -> Report:
    """Write the report, the figure, `judgement.csv`, `seeds.csv` and `row.md`; return the content."""
    result, title = results(plan), plan.artefact.title
    verdicts, combine = result.verdicts, plan.combine
    drawn = draw(verdicts, plan.folder)
    blocks = judgement.blocks(
        verdicts,
        combine,
        problem=result.problem,
        notes=result.notes,
        costs=result.costs,
        pictures=[path.stem for path in drawn if path.suffix == ".svg"],
    )
    files = judgement_files.files(verdicts)
    return Report(
        files=document.write(plan.folder, title, blocks, drawn, files),
        findings=document.findings(blocks),
        listing=judgement.listing(verdicts, title),
        record=judgement_files.record(verdicts, combine, result.problem),
        metrics=judgement_files.metrics(verdicts),
    )
