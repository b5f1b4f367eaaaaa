"""MLflow as a view of a search: what ASHA stopped is no longer running there, either. The rest is `tracking`'s."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from studies.harness.tracking.sync import MlflowClient, default_uri


def end_stopped(name: str, keys: Collection[str], root: Path, uri: str | None = None) -> int:
    """Close the runs of trials that were given up; returns how many were open.

    Args:
        name: Of the experiment.
        keys: The trials.
        root: The output folder.
        uri: Tracking server or database; that of the output folder when None.
    """
    client = MlflowClient(tracking_uri=uri or default_uri(root))
    found = client.get_experiment_by_name(name)
    if found is None:
        return 0
    ended = 0
    for key in sorted(keys):
        for run in client.search_runs([found.experiment_id], f"tags.trial_key = '{key}'"):
            if run.info.status == "RUNNING":
                client.set_tag(run.info.run_id, "status", "stopped")
                client.set_terminated(run.info.run_id, "KILLED")
                ended += 1
    return ended
