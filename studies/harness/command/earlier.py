"""Keep an earlier report under another name if the new report of its folder lacks some results."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from precond.counts import counted
from studies.harness.kinds import records
from studies.harness.kinds.artefact import Plan
from trainables.config import digest

EARLIER = "earlier-"  # in the name of the folder of a report that was set aside


def set_aside(plan: Plan, results: Sequence[str]) -> list[str]:
    """Rename the folder of the stored report if the new one lacks results; return a finding.

    Results that a user has deleted do not count.

    Args:
        plan: The plan of the new report.
        results: The results that the new report shows (`Artefact.results`).
    """
    if not (reason := _reason(plan, results)):
        return []
    stored = records.read(plan.folder).get("results", [])
    target = plan.folder.with_name(f"{plan.folder.name}+{EARLIER}{digest(stored)[:8]}")
    if target.exists():  # an older report of the same trials, which may have been trained again
        shutil.rmtree(target)
    plan.folder.rename(target)
    return [f"{reason} It is kept in {target.relative_to(plan.root)}."]


def _reason(plan: Plan, results: Sequence[str]) -> str:
    """Return why the stored report must be kept, or "" if it may be replaced."""
    record = records.read(plan.folder)
    if not record:
        damaged = (plan.folder / records.RECORD).exists()
        return f"The file {records.RECORD} of the earlier report is damaged." if damaged else ""
    if (stored := record.get("results")) is None:  # the record is of an earlier version
        number = records.number_of_results(record) - len(results)
    else:
        missing = set(stored) - set(results)
        number = sum((plan.root / path).exists() for path in missing)
    if number <= 0:
        return ""
    return (
        f"The earlier report has {counted(number, 'result')} that this report does not show, for "
        "example because the study was edited."
    )


def delete_contained(plan: Plan, results: Sequence[str]) -> None:
    """Delete the earlier reports of a plan's folder all of whose results are in the new report."""
    for folder in plan.folder.parent.glob(f"{plan.folder.name}+{EARLIER}*"):
        stored = records.read(folder).get("results")
        if stored and set(stored) <= set(results):
            shutil.rmtree(folder)
