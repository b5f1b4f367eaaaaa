"""The MLflow UI of an output folder on this machine, and links to its pages that compare runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote

from studies.harness.design.options import default_uri
from studies.harness.tracking import charts
from studies.harness.tracking.client import PARENT, MlflowClient, all_runs

WORKFLOW = "workflowType=machine_learning"
COMPARED = 100  # runs; with more, the comparison page is slow
# Serve pages only: start no jobs on request, open no pickles, send no telemetry.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


class Shown(NamedTuple):
    """A run of a study as the UI shows it."""

    kind: str  # study, group or trial
    name: str
    workload: str
    experiment_id: str
    run_id: str
    parent_id: str


def shown(root: Path) -> list[Shown]:
    """Return the runs of studies and of groups of seeds in an output folder's database, experiment by experiment."""
    client = MlflowClient(tracking_uri=default_uri(root))
    runs = []
    for experiment in sorted(client.search_experiments(), key=lambda experiment: experiment.name):
        pages = (all_runs(client, experiment.experiment_id, f"tags.kind = '{kind}'") for kind in ("study", "group"))
        for run in (run for page in pages for run in page):
            tags, info = run.data.tags, run.info
            names = tags["kind"], info.run_name or "", tags.get("workload", "")
            runs.append(Shown(*names, info.experiment_id, info.run_id, tags.get(PARENT, "")))
    return runs


def links(runs: Sequence[Shown], base: str) -> list[tuple[str, str]]:
    """Return pages of the UI as (what it shows, address), study by study.

    Args:
        runs: The runs in MLflow (`shown`).
        base: Address of the UI, without a slash at its end.
    """
    pages = []
    for parent in (run for run in runs if run.kind == "study"):
        groups = [run.run_id for run in runs if run.kind == "group" and run.parent_id == parent.run_id]
        experiment = f"{base}/#/experiments/{parent.experiment_id}"
        pages.append((f"{parent.name}: summary, table and figures", f"{experiment}/runs/{parent.run_id}?{WORKFLOW}"))
        if len(groups) > 1:
            ids, place = json.dumps(groups[:COMPARED]), json.dumps([parent.experiment_id])
            page = f"{base}/#/compare-runs?runs={quote(ids)}&experiments={quote(place)}&{WORKFLOW}"
            view = f"{experiment}/runs?viewStateShareKey={charts.key(parent.workload)}&compareRunsMode=CHART&{WORKFLOW}"
            pages.append(("  its configurations in parallel coordinates, their means and curves", view))
            pages.append(("  the same side by side, with all parameters", page))
    return pages


def serve(root: Path, port: int) -> NoReturn:
    """Replace this process by the MLflow UI of an output folder, on the loopback address only."""
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    hosts = f"127.0.0.1:{port},localhost:{port}"
    environment: Mapping[str, Any] = {**os.environ, **ENVIRONMENT}
    sys.stdout.flush()
    os.execve(
        sys.executable, [*command, "--allowed-hosts", hosts, "--backend-store-uri", default_uri(root)], environment
    )
