"""Send the views of all artefacts in an output folder to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.harness.design.options import default_uri
from studies.harness.design.result import Report
from studies.harness.tracking import locations
from studies.harness.tracking.client import check
from studies.harness.tracking.view import Sent

UNCHANGED = Sent()


@dataclass(frozen=True, kw_only=True)
class Update:
    """The result of sending the runs of a plan.

    Attributes:
        name: The name of the view, or of the artefact if it has no plan because of `error`.
        sent: The changes in MLflow.
        trials: The keys of the view's trials.
        error: The exception because of which the update is incomplete, or None.
        skipped: A line for each stored report of the artefact that has no plan.
    """

    name: str
    sent: Sent = UNCHANGED
    trials: frozenset[str] = frozenset()
    error: Exception | None = None
    skipped: Sequence[str] = ()


def send_all(
    artefacts: Iterable[Any],
    root: Path,
    uri: str | None = None,
    last_report: Callable[[Any], Report | None] = lambda plan: None,
) -> Iterator[Update]:
    """Send missing results of all artefacts; yield the result for each plan.

    After the plans of an artefact, one more result has the stored reports that were skipped, if any.

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
            stored = artefact.stored(root)
        except Exception as error:
            yield Update(name=artefact.name, error=error)
            continue
        for plan in stored.plans:
            yield from _send(plan, uri, last_report)
        if stored.problems:
            yield Update(name=artefact.name, skipped=stored.problems)


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
        check(uri)  # if the server does not answer, the other plans cannot be sent either
        yield Update(name=name, trials=trials, error=error)
    else:
        yield Update(name=name, trials=trials, sent=sent)
