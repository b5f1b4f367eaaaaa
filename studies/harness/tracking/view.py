"""The base class of MLflow views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from precond.counts import counted
from studies.harness.design.facts import Facts
from studies.harness.design.options import Options
from studies.harness.design.result import Report

MARK = "inputs_sent"  # tag of the report's run: digest of the inputs of the last complete update
CLAIM_TAGS = "claim/", "verdict/"  # prefixes; see `claim_tags`


@dataclass(frozen=True)
class Sent:
    """The changes of an update in MLflow.

    Attributes:
        runs: The number of runs that were created or changed.
        epochs: The number of epochs that were sent.
        restored: A line for the user if the experiment was deleted, otherwise empty.
    """

    runs: int = 0
    epochs: int = 0
    restored: str = ""

    def __str__(self) -> str:
        parts = [(self.runs, "run"), (self.epochs, "epoch")]
        counts = " and ".join(counted(number, noun) for number, noun in parts if number)
        return f"{counts} sent" if counts else "nothing new"


@dataclass(frozen=True, kw_only=True)
class View(ABC):
    """The runs of an artefact on a workload in MLflow.

    Attributes:
        facts: The artefact's facts. Its name is the experiment, with `-smoke` appended for a smoke
            run.
        workload: The workload that is trained or timed.
        options: The command line.
        selection: The selection of the plan (`kinds.artefact.Plan`); each has a separate parent run.
    """

    facts: Facts
    workload: str
    options: Options
    selection: str = ""

    @abstractmethod
    def send(self, uri: str, report: Report | None = None, mark: str = "") -> Sent:
        """Update MLflow from the output folder; write nothing if nothing has changed.

        Args:
            uri: Tracking server or database.
            report: The last report; None while trials run.
            mark: The value of the tag `MARK`, set at the end; a different mark is removed first.

        Returns:
            The changes in MLflow.
        """

    @property
    def trial_keys(self) -> frozenset[str]:
        """The keys of the trials whose runs belong to the view."""
        return frozenset()

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return f"{self.facts.name}-smoke" if self.options.smoke else self.facts.name

    @property
    def name(self) -> str:
        """Experiment, workload and selection: `ablation_rank on digits/cnn, optimizers=sgd,adam`."""
        return f"{self.experiment} on {self.workload}{self._suffix}"

    @property
    def run_name(self) -> str:
        """The name of the report's run: `ablation_rank digits/cnn, optimizers=sgd,adam`."""
        return f"{self.facts.name} {self.workload}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return f", {self.selection}" if self.selection else ""

    @property
    def tags(self) -> dict[str, str]:
        """The tags that all runs of the view share, also with the runs of other selections."""
        facts = {"study": self.facts.name, "paper": self.facts.paper, "table": self.facts.table}
        return {**facts, "workload": self.workload, "smoke": str(self.options.smoke)}

    @property
    def selection_tags(self) -> dict[str, str]:
        """The tag of the runs that belong to a selection only; none for the artefact's own plan."""
        return {"selection": self.selection} if self.selection else {}


def claim_tags(report: Report | None) -> dict[str, str]:
    """Return the decisions as tags of a report's run: `claim/1` is a sentence, `verdict/1` a word."""
    tags = {}
    for number, claim in enumerate(report.claims if report else (), 1):
        tags |= {f"claim/{number}": claim["sentence"], f"verdict/{number}": claim["verdict"]}
    return tags
