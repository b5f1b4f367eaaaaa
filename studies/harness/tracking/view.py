"""The base class of MLflow views; `send_all` sends the views of an output folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.harness.design.facts import Facts
from studies.harness.design.options import Options, default_uri
from studies.harness.design.result import Report

MARK = "inputs_sent"  # tag of the report's run: digest of the inputs of the last complete update
CLAIM_TAGS = "claim/", "verdict/"  # prefixes; see `claim_tags`
NOTHING = "nothing to send"


@dataclass(frozen=True, kw_only=True)
class View(ABC):
    """The runs of an artefact on a workload in MLflow.

    Attributes:
        facts: The artefact's facts. Its name is the experiment, with `-smoke` appended for a smoke
            run.
        workload: The workload that is trained or timed.
        options: The command line.
        selection: The selection of the plan (`kinds.artefact.Plan`); each has a run of its own.
    """

    facts: Facts
    workload: str
    options: Options
    selection: str = ""

    @abstractmethod
    def send(self, uri: str, report: Report | None = None, mark: str = "") -> str:
        """Update MLflow from the output folder; write nothing if nothing has changed.

        Args:
            uri: Tracking server or database.
            report: The last report; None while trials run.
            mark: The value of the tag `MARK`, set at the end; a different mark is removed first.

        Returns:
            A summary: `8 epochs sent`, `sent`, `nothing to send`.
        """

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return f"{self.facts.name}-smoke" if self.options.smoke else self.facts.name

    @property
    def name(self) -> str:
        """The experiment and the workload: `ablation_rank on digits/cnn`."""
        return f"{self.experiment} on {self.workload}"

    @property
    def tags(self) -> dict[str, str]:
        """The tags that all runs of the view share."""
        facts = {"study": self.facts.name, "paper": self.facts.paper, "table": self.facts.table}
        return {**facts, "workload": self.workload, "smoke": str(self.options.smoke)}


def claim_tags(report: Report | None) -> dict[str, str]:
    """Return the decisions as tags of a report's run: `claim/1` is a sentence, `verdict/1` a word."""
    tags = {}
    for number, claim in enumerate(report.claims if report else (), 1):
        tags |= {f"claim/{number}": claim["sentence"], f"verdict/{number}": claim["verdict"]}
    return tags


def send_all(
    artefacts: Iterable[Any],
    root: Path,
    uri: str | None = None,
    last_report: Callable[[Any], Report | None] = lambda plan: None,
) -> Iterator[tuple[str, str]]:
    """Send missing results of all artefacts; yield the name of each view and a summary.

    Args:
        artefacts: Artefacts (`kinds.artefact`) that may have results in the output folder.
        root: The output folder.
        uri: Tracking server or database; the output folder's database if None.
        last_report: Returns the stored report of a plan, or None. Without a stored report, the
            files of the report's folder are sent, and the parent run's summary does not change.
    """
    for artefact in artefacts:
        for plan in artefact.stored(root):
            if view := artefact.tracking(plan):
                files = sorted(path for path in plan.folder.glob("[!.]*") if path.is_file())
                report = last_report(plan) or Report(files=files)
                yield view.name, view.send(uri or default_uri(root), report)
