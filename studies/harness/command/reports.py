"""Write, print and track a command's reports; reuse a report whose inputs have not changed.

The file `.report.json` beside each report contains a digest of the report's inputs, and the `Report`
itself. If the digest is the same as before, the command prints the stored report; it neither
analyses the trials nor draws the figures again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from studies.harness.command import screen
from studies.harness.design.options import Options
from studies.harness.design.result import Listing, Report
from studies.harness.kinds.artefact import Plan
from studies.harness.tracking.background import Tracking, up_to_date
from trainables.config import digest
from trainables.files import write_atomically
from trainables.fingerprint import fingerprint

RECORD = ".report.json"


class Reports:
    """The reports of a command's plans, and their views in MLflow."""

    def __init__(self, plans: Sequence[Plan], options: Options, console: Console):
        self._plans, self._options, self._console = plans, options, console
        self._tracking: Tracking | None = None

    def start_tracking(self) -> None:
        """Start a thread that sends results to MLflow while trials run."""
        if self._options.uri is not None and self._tracking is None:
            views = [
                view for plan in self._plans if (view := plan.artefact.tracking(plan)) is not None
            ]
            self._tracking = Tracking(views, self._options, self._console)

    def write(self) -> bool:
        """Write and print all reports, and update MLflow; return True if trials failed."""
        written = [(plan, *make(plan)) for plan in self._plans]
        for plan, report, _ in written:
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
        if self._tracking is None and uri is not None and not up_to_date(uri, inputs):
            self.start_tracking()
        if self._tracking is not None:
            self._tracking.finish([report for report, _ in tracked], inputs)
        return any(report.failed for _, report, _ in written)


def make(plan: Plan) -> tuple[Report, str]:
    """Return a plan's report, rewritten if it is out of date, and the digest of its inputs."""
    inputs = _inputs(plan)
    stored_inputs, report = last(plan.folder)
    if report is None or not inputs or inputs != stored_inputs:
        report = plan.artefact.report(plan)
        _store(plan.folder, inputs, report)
    return report, inputs


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
    try:
        record = json.loads((folder / RECORD).read_bytes())
        if any([*_stamp(folder / name)] != stamp for name, stamp in record["files"].items()):
            return "", None
        fields: dict[str, Any] = record["report"]
        if (listing := fields.pop("listing")) is not None:
            listing = Listing(**{**listing, "bold": {tuple(cell) for cell in listing["bold"]}})
        files = [folder / name for name in record["files"]]
        return record["inputs"], Report(**fields, files=files, listing=listing)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", None


def _store(folder: Path, inputs: str, report: Report) -> None:
    fields = dataclasses.asdict(report)
    files = {os.path.relpath(path, folder): _stamp(path) for path in fields.pop("files")}
    record = {"inputs": inputs, "files": files, "report": fields}
    content = json.dumps(record, default=sorted)  # sorted: JSON has no sets
    write_atomically(folder / RECORD, content.encode())
