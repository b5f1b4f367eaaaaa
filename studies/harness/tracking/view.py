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
from studies.harness.evidence.metrics import count
from studies.harness.tracking import locations

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
        counts = " and ".join(count(number, noun) for number, noun in parts if number)
        return f"{counts} sent" if counts else "nothing new"


@dataclass(frozen=True, kw_only=True)
class Update:
    """The result of sending the runs of a plan.

    Attributes:
        name: The name of the view, or of the artefact if it has no plan because of `error`.
        sent: The changes in MLflow.
        trials: The keys of the view's trials.
        error: The exception because of which the update is incomplete, or None.
    """

    name: str
    sent: Sent = Sent()
    trials: frozenset[str] = frozenset()
    error: Exception | None = None


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
        """Experiment, workload and selection: `ablation_rank on digits/cnn, seeds=5,6`."""
        return f"{self.experiment} on {self.workload}{self._suffix}"

    @property
    def run_name(self) -> str:
        """The name of the report's run: `ablation_rank digits/cnn, seeds=5,6`."""
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


def send_all(
    artefacts: Iterable[Any],
    root: Path,
    uri: str | None = None,
    last_report: Callable[[Any], Report | None] = lambda plan: None,
) -> Iterator[Update]:
    """Send missing results of all artefacts; yield the result for each plan.

    An artefact or a plan that cannot be sent does not stop the others.

    Args:
        artefacts: Artefacts (`kinds.artefact`) that may have results in the output folder.
        root: The output folder.
        uri: Tracking server or database; the output folder's database if None.
        last_report: Returns the stored report of a plan, or None. Without a stored report, the
            files of the report's folder are sent, and the parent run's summary does not change.

    Raises:
        Exception: The server or database does not answer.
    """
    uri = uri or default_uri(root)
    locations.repair(root, uri)
    for artefact in artefacts:
        try:
            plans = artefact.stored(root)
        except Exception as error:
            yield Update(name=artefact.name, error=error)
            continue
        for plan in plans:
            yield from _send(plan, uri, last_report)


def _send(plan: Any, uri: str, last_report: Callable[[Any], Report | None]) -> Iterator[Update]:
    """Send the runs of a plan; yield nothing if its kind has no runs."""
    name, trials = plan.artefact.name, frozenset[str]()
    try:
        view = plan.artefact.tracking(plan)
        if view is None:
            return
        name, trials = view.name, view.trial_keys
        files = sorted(path for path in plan.folder.glob("[!.]*") if path.is_file())
        sent = view.send(uri, last_report(plan) or Report(files=files))
    except Exception as error:
        from studies.harness.tracking.client import check

        check(uri)  # if the server does not answer, the other plans cannot be sent either
        yield Update(name=name, trials=trials, error=error)
    else:
        yield Update(name=name, trials=trials, sent=sent)
