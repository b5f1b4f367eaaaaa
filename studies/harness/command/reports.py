"""A command's reports: written by their kinds, printed, sent to MLflow; kept as they are while nothing changed.

Beside each report lies `.report.json`: a digest of everything that the report is made from, and what it said. A command
that finds the same digest prints that, and neither reads a folder again nor draws a figure again.
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

KEPT = ".report.json"


class Reports:
    """The reports of a command's plans, and their views in MLflow."""

    def __init__(self, plans: Sequence[Plan], options: Options, console: Console):
        self._plans, self._options, self._console = plans, options, console
        self._tracking: Tracking | None = None

    def start_tracking(self) -> None:
        """Begin to send what the folders contain, in a thread, while trials run."""
        if self._options.uri is not None and self._tracking is None:
            views = [
                view for plan in self._plans if (view := plan.artefact.tracking(plan)) is not None
            ]
            self._tracking = Tracking(views, self._options, self._console)

    def write(self) -> bool:
        """Write and print every report, and bring MLflow up to date; return True if trials failed."""
        written = [(plan, *make(plan)) for plan in self._plans]
        for _, report, _ in written:
            screen.show(report, self._console)
            if self._options.as_json and report.record:
                print(report.record)
        tracked = [
            (report, inputs) for plan, report, inputs in written if plan.artefact.tracking(plan)
        ]
        inputs = [inputs for _, inputs in tracked]
        if (
            self._tracking is None
            and self._options.uri is not None
            and not up_to_date(self._options.uri, inputs)
        ):
            self.start_tracking()
        if self._tracking is not None:
            self._tracking.finish([report for report, _ in tracked], inputs)
        return any(report.failed for _, report, _ in written)


def make(plan: Plan) -> tuple[Report, str]:
    """Return a plan's report, written anew unless it is up to date, and the digest of what it is made from."""
    inputs = _inputs(plan)
    known, report = last(plan.folder)
    if report is None or not inputs or inputs != known:
        report = plan.artefact.report(plan)
        _keep(plan.folder, inputs, report)
    return report, inputs


def _inputs(plan: Plan) -> str:
    """Return the digest of what a report is made from: code, plan, files; empty if the kind does not say."""
    places = plan.artefact.inputs(plan)
    if not places:
        return ""
    # A trial that was never started has no folder.
    files = [
        path
        for place in places
        for path in ([place] if place.is_file() else sorted(place.glob("*.json*")))
    ]
    trials = [(trial.arm.label, trial.config.trial_key) for trial in plan.trials]
    stamps = [(str(path.relative_to(plan.root)), *_stamp(path)) for path in files]
    return digest([fingerprint(), repr(plan.artefact), plan.workload, trials, stamps])


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def last(folder: Path) -> tuple[str, Report | None]:
    """Return the digest of the inputs of the last report and what it said, if its files are untouched since."""
    try:
        kept = json.loads((folder / KEPT).read_bytes())
        if any([*_stamp(folder / name)] != stamp for name, stamp in kept["files"].items()):
            return "", None
        facts: dict[str, Any] = kept["report"]
        if (listing := facts.pop("listing")) is not None:
            listing = Listing(**{**listing, "bold": {tuple(cell) for cell in listing["bold"]}})
        return kept["inputs"], Report(
            **facts, files=[folder / name for name in kept["files"]], listing=listing
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # absent or damaged: the report is made again
        return "", None


def _keep(folder: Path, inputs: str, report: Report) -> None:
    facts = dataclasses.asdict(report)
    files = {os.path.relpath(path, folder): _stamp(path) for path in facts.pop("files")}
    document = {"inputs": inputs, "files": files, "report": facts}
    write_atomically(
        folder / KEPT, json.dumps(document, default=sorted).encode()
    )  # JSON has no sets
