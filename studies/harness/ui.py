"""The MLflow UI of an output folder on this machine, and links into it that compare at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from studies.harness import views
from studies.harness.tracking import Shown

WORKFLOW = "workflowType=machine_learning"
COMPARED = 100  # runs; the comparison page gets slow beyond
# Nothing but the pages: no jobs started by requests, no pickles opened, nothing sent home.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def links(runs: Sequence[Shown], base: str) -> list[tuple[str, str]]:
    """Pages worth opening, as (what it is, address), study by study.

    Args:
        runs: What MLflow has of the studies (`tracking.shown`).
        base: Address of the UI, without a slash at its end.
    """
    found = []
    for parent in (run for run in runs if run.kind == "study"):
        groups = [run.run_id for run in runs if run.kind == "group" and run.parent_id == parent.run_id]
        experiment = f"{base}/#/experiments/{parent.experiment_id}"
        found.append((f"{parent.name}: summary, table and figures", f"{experiment}/runs/{parent.run_id}?{WORKFLOW}"))
        if len(groups) > 1:
            ids, place = json.dumps(groups[:COMPARED]), json.dumps([parent.experiment_id])
            page = f"{base}/#/compare-runs?runs={quote(ids)}&experiments={quote(place)}&{WORKFLOW}"
            view = f"{experiment}/runs?viewStateShareKey={views.key(parent.workload)}&compareRunsMode=CHART&{WORKFLOW}"
            found.append(("  its configurations in parallel coordinates, their means and curves", view))
            found.append(("  the same side by side, with all parameters", page))
    return found


def serve(root: Path, port: int) -> NoReturn:
    """Become the MLflow UI of an output folder, on this machine's own address only."""
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    hosts = f"127.0.0.1:{port},localhost:{port}"
    place = f"sqlite:///{root.resolve() / 'mlflow.db'}"
    environment: Mapping[str, Any] = {**os.environ, **ENVIRONMENT}
    sys.stdout.flush()
    os.execve(sys.executable, [*command, "--allowed-hosts", hosts, "--backend-store-uri", place], environment)
