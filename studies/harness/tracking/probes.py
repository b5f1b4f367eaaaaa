"""MLflow as a view of a probe: one run with its figure and numbers, found again by what it shows."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from studies.harness.kinds.probe.probe import Probe
from studies.harness.kinds.study.study import Trial
from studies.harness.tracking.sync import BATCH, Metric, MlflowClient, Param, default_uri, experiment, fingerprint


def send(
    probe: Probe,
    trials: Sequence[Trial],
    metrics: Mapping[str, float],
    artifacts: Sequence[Path],
    root: Path,
    uri: str | None = None,
    smoke: bool = False,
) -> bool:
    """Bring a probe's run up to date; True if anything had to be sent.

    Args:
        probe: Its name is the experiment, with `-smoke` appended for a smoke run.
        trials: The networks, all of one workload.
        metrics: Numbers by name.
        artifacts: The report's files.
        root: The output folder.
        uri: Tracking server or database; that of the output folder when None.
        smoke: Whether this is a smoke run.
    """
    config, uri = trials[0].config, uri or default_uri(root)
    client = MlflowClient(tracking_uri=uri)
    place = experiment(client, f"{probe.name}-smoke" if smoke else probe.name, root, uri)
    key, content = probe.key(config.with_seed(0)), fingerprint(artifacts)
    tags = {"study": probe.name, "paper": probe.paper, "table": probe.table, "workload": config.workload}
    tags |= {"kind": "probe", "smoke": str(smoke), "group_key": key}
    runs = client.search_runs([place], f"tags.group_key = '{key}'")
    run = runs[0] if runs else client.create_run(place, tags=tags, run_name=f"{probe.name} {config.workload}")
    if run.data.tags.get("artifacts") == content:
        return False
    params = {**vars(probe.measurement), "optimizer": config.optimizer, "epochs": config.epochs}
    params |= {"batch_size": config.batch_size, "schedule": config.schedule, **config.hyperparameters}
    new = [Param(name, str(value)) for name, value in params.items() if name not in run.data.params]
    now = int(1000 * time.time())
    points = [Metric(re.sub(r"[^A-Za-z0-9_./ :-]", ".", name), value, now, 0) for name, value in metrics.items()]
    points = [point for point in points if math.isfinite(point.value)]
    while points or new:
        client.log_batch(run.info.run_id, points[:BATCH], new)
        points, new = points[BATCH:], []
    for path in artifacts:
        client.log_artifact(run.info.run_id, str(path))
    client.set_tag(run.info.run_id, "artifacts", content)  # last: killed before, all is sent again
    client.set_terminated(run.info.run_id)
    return True
