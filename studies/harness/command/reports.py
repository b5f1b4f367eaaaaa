"""Write, print and track a command's reports; reuse a report whose inputs have not changed.

The file `.report.json` beside each report contains a digest of the report's inputs, the `Report`
itself and a description of its plan (`kinds.records`). If the digest is the same as before, the
command prints the stored report; it neither analyses the trials nor draws the figures again.

A report never replaces one that shows more. Each selection has a separate folder, a study's report
shows all seeds in the output folder, and this module keeps a report whose results the new one
lacks.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from precond.counts import counted
from studies.harness.command import earlier, screen
from studies.harness.design.options import Options
from studies.harness.design.result import Listing, Report
from studies.harness.kinds import records
from studies.harness.kinds.artefact import Plan
from studies.harness.tracking.background import Tracking, up_to_date
from trainables.config import digest
from trainables.files import write_atomically
from trainables.fingerprint import fingerprint


class Reports:
    """The reports of a command's plans, and their views in MLflow.

    Args:
        plans: The plans.
        options: The options of the command.
        console: The terminal.
        print_results: False if the caller shows the results.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        options: Options,
        console: Console,
        *,
        print_results: bool = True,
    ):
        self._plans, self._options, self._console = plans, options, console
        self._print_results = print_results
        self._tracking: Tracking | None = None

    def start_tracking(self) -> None:
        """Start a thread that sends results to MLflow while trials run."""
        if self._options.uri is not None and self._tracking is None:
            views = [
                view for plan in self._plans if (view := plan.artefact.tracking(plan)) is not None
            ]
            self._tracking = Tracking(views, self._options, self._console)

    def write(self) -> bool:
        """Write all reports and update MLflow; return True if trials failed."""
        written = [(plan, *make(plan)) for plan in self._plans]
        for plan, report, _ in written if self._print_results else ():
            if len(written) > 1:  # otherwise the command has printed the headline of the only plan
                self._console.print(plan.headline)
            screen.show(report, self._console)
            if self._options.as_json and report.record:
                print(report.record)
        tracked = [
            (report, inputs) for plan, report, inputs in written if plan.artefact.tracking(plan)
        ]
        inputs = [inputs for _, inputs in tracked]
        uri = self._options.uri
        if (
            self._tracking is None
            and uri is not None
            and not up_to_date(uri, inputs, self._options.root)
        ):
            self.start_tracking()
        if self._tracking is not None:
            self._tracking.finish([report for report, _ in tracked], inputs)
        return any(report.failed for _, report, _ in written)


def make(plan: Plan) -> tuple[Report, str]:
    """Return a plan's report, rewritten if it is out of date, and the digest of its inputs.

    A report without results does not replace a report with results; the stored report is returned,
    with a finding about it, and the digest is empty.
    """
    plan = plan.artefact.reported(plan)
    inputs = _inputs(plan)
    stored_inputs, report = last(plan.folder)
    if report is not None and inputs and inputs == stored_inputs:
        return report, inputs
    results = plan.artefact.results(plan)
    if not results and (kept := _kept(plan)):
        return kept, ""
    findings = earlier.set_aside(plan, results)
    report = plan.artefact.report(plan)
    _store(plan, inputs, report, results)
    earlier.delete_contained(plan, results)
    return dataclasses.replace(report, findings=[*findings, *report.findings]), inputs


def _kept(plan: Plan) -> Report | None:
    """Return the stored report of a folder if it has results; None if it may be replaced."""
    record = records.read(plan.folder)
    number = records.number_of_results(record)
    report = _report(plan.folder, record) if number else None
    if report is None or not any(path.suffix == ".html" and path.exists() for path in report.files):
        return None
    line = (
        f"None of the {plan.planned} planned results exists, so the report was not replaced. Its "
        f"{counted(number, 'result')} {'belong' if number > 1 else 'belongs'} to an earlier version "
        "of the study, of a plugin or of this project, or to deleted trials."
    )
    return dataclasses.replace(report, findings=[line, *report.findings], failed=False)


def _inputs(plan: Plan) -> str:
    """Return a digest of code, plan and input files; empty if the kind does not name its inputs."""
    places = plan.artefact.inputs(plan)
    if not places:
        return ""
    files = [
        path
        for place in places
        for path in ([place] if place.is_file() else sorted(place.glob("*.json*")))
    ]
    trials = [(trial.arm.label, trial.config.trial_key) for trial in plan.trials]
    stamps = [(str(path.relative_to(plan.root)), *_stamp(path)) for path in files]
    return digest([fingerprint(), repr(plan.artefact), plan.workload, trials, stamps])


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def last(folder: Path) -> tuple[str, Report | None]:
    """Return the stored report of a folder and the digest of its inputs.

    Return ("", None) if the record is absent or damaged, or if a file of the report has changed
    since the record was stored.
    """
    record = records.read(folder)
    report = _report(folder, record)
    try:
        changed = [n for n, stamp in record["files"].items() if [*_stamp(folder / n)] != stamp]
    except (OSError, KeyError, TypeError, AttributeError):
        return "", None
    return ("", None) if changed or report is None else (str(record.get("inputs", "")), report)


def _report(folder: Path, record: Mapping[str, Any]) -> Report | None:
    """Return the report in a record, or None if the record is damaged."""
    try:
        fields = dict(record["report"])
        if (listing := fields.pop("listing")) is not None:
            listing = Listing(**{**listing, "bold": {tuple(cell) for cell in listing["bold"]}})
        files = [folder / name for name in record["files"]]
        return Report(**fields, files=files, listing=listing)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _store(plan: Plan, inputs: str, report: Report, results: Sequence[str]) -> None:
    fields, folder = dataclasses.asdict(report), plan.folder
    files = {os.path.relpath(path, folder): _stamp(path) for path in fields.pop("files")}
    record = {"inputs": inputs, "files": files, "report": fields}
    record |= records.description(plan, results)
    content = json.dumps(record, default=sorted)  # sorted: JSON has no sets
    write_atomically(folder / records.RECORD, content.encode())
