"""Start the MLflow UI of an output folder; return links to its pages that compare runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from studies.harness.design.options import default_uri
from studies.harness.tracking import locations, page
from studies.harness.tracking.client import PARENT, MlflowClient, all_runs

HOST = "127.0.0.1"
WORKFLOW = "workflowType=machine_learning"
MAX_COMPARED = 100  # runs; with more, the comparison page is slow
# Serve pages only: do not start jobs, open pickles or send telemetry.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def links(root: Path, base: str) -> Iterator[tuple[str, str]]:
    """Yield pages of the UI for each study, as (description, address).

    Args:
        root: The output folder, whose database has the runs.
        base: Address of the UI, without a slash at the end.
    """
    locations.repair(root, default_uri(root))
    client = MlflowClient(tracking_uri=default_uri(root))
    for experiment in sorted(client.search_experiments(), key=lambda experiment: experiment.name):
        studies = all_runs(client, experiment.experiment_id, "tags.kind = 'study'")
        groups = all_runs(client, experiment.experiment_id, "tags.kind = 'group'")
        address = f"{base}/#/experiments/{experiment.experiment_id}"
        for study in studies:
            key = study.info.run_id
            yield (
                f"{study.info.run_name}: summary, table and figures",
                f"{address}/runs/{key}?{WORKFLOW}",
            )
            ids = [run.info.run_id for run in groups if run.data.tags.get(PARENT) == key]
            if len(ids) > 1:
                tags = study.data.tags
                view = f"viewStateShareKey={page.key(tags['workload'], tags.get('selection', ''))}"
                charts = f"{address}/runs?{view}&compareRunsMode=CHART&{WORKFLOW}"
                yield (
                    "  charts of the configurations: parallel coordinates, means and curves",
                    charts,
                )
                runs = quote(json.dumps(ids[:MAX_COMPARED]))
                experiments = quote(json.dumps([experiment.experiment_id]))
                table = f"{base}/#/compare-runs?runs={runs}&experiments={experiments}&{WORKFLOW}"
                yield "  table of the configurations, with the parameters that differ", table


def serve(root: Path, port: int) -> NoReturn:
    """Replace this process by the MLflow UI of an output folder, on the loopback address only."""
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1", "--allowed-hosts", f"{HOST}:{port},localhost:{port}"]
    command += ["--backend-store-uri", default_uri(root)]
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, **ENVIRONMENT})
