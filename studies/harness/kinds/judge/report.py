"""Placeholder until the report of another branch is merged."""

from __future__ import annotations

from studies.harness.design.result import Report
from studies.harness.kinds.judge.judge_plan import JudgePlan
from studies.harness.kinds.judge.results import results


def report(plan: JudgePlan) -> Report:
    """Return the report."""
    current = results(plan)
    lines = [f"{v.candidate}: {v.decision} {v.pairs} e={v.e:.3g}" for v in current.verdicts]
    plan.folder.mkdir(parents=True, exist_ok=True)
    return Report(files=[], findings=[*lines, *current.notes, *current.costs, current.problem])
