"""MLflow from everything that an output folder contains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from studies.harness.design.options import default_uri
from studies.harness.design.result import Report


def everything(
    artefacts: Iterable[Any],
    root: Path,
    uri: str | None = None,
    last_report: Callable[[Any], Report | None] = lambda plan: None,
) -> Iterator[tuple[str, str]]:
    """Send what MLflow lacks of all artefacts; yield the name of each view, and what was sent.

    Args:
        artefacts: Artefacts (`kinds.artefact`) that an output folder may have results of.
        root: The output folder.
        uri: Tracking server or database; the output folder's database if None.
        last_report: Returns the report that a plan's last command kept. If it is None, the files of the report's folder
            are sent, and the parent run's summary stays as it is.
    """
    for artefact in artefacts:
        for plan in artefact.stored(root):
            if view := artefact.tracking(plan):
                files = sorted(path for path in plan.folder.glob("[!.]*") if path.is_file())
                report = last_report(plan) or Report(files=files)
                yield view.name, view.send(uri or default_uri(root), report)
