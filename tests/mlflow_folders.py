"""Output folders with an MLflow database, and the runs in it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from folders import STUDY, planned, write_trial

from studies.harness.design.arms import Trial
from studies.harness.design.options import Options, default_uri
from studies.harness.design.result import Report
from studies.harness.design.uris import sqlite_uri
from studies.harness.tracking.client import MlflowClient, create_database
from studies.harness.tracking.view import Sent
from studies.harness.tracking.views import TrialsView


@functools.cache
def empty_database() -> bytes:
    """Return the content of an empty database. Its creation takes seconds, so tests copy it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        create_database(sqlite_uri(path))
        return path.read_bytes()


def new_root(parent: Path, name: str = "out", trials: Sequence[Trial] = ()) -> Path:
    """Create an output folder with trials, by default of four arms, and an empty database."""
    root = parent / name
    root.mkdir()
    (root / "mlflow.db").write_bytes(empty_database())
    for trial in trials or planned(seeds=2)[:4]:
        write_trial(root, trial)
    (root / "report.md").write_text("text")
    return root


def view(root: Path, trials: Sequence[Trial] = (), **fields: Any) -> TrialsView:
    """Return the view of a study's trials, by default those of `new_root`."""
    trials = trials or planned(seeds=2)[:4]
    settings = {"facts": STUDY, "workload": "digits/cnn", "metric": "test/accuracy", **fields}
    return TrialsView(**settings, trials=lambda: trials, options=Options(out=root))


def send(root: Path, trials: Sequence[Trial] = (), **fields: Any) -> Sent:
    """Send a view with its report to the output folder's database."""
    report = Report(files=[root / "report.md"])
    return view(root, trials, **fields).send(default_uri(root), report, "digest")


def runs(root: Path, kind: str) -> list[Any]:
    """Return the runs of a kind, such as `trial`."""
    client = MlflowClient(tracking_uri=default_uri(root))
    experiment = client.get_experiment_by_name(STUDY.name)
    return list(client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))


def artifact(root: Path, run: Any, name: str, folder: Path) -> str:
    """Return the content of an artifact, as a client reads it that knows the database only."""
    client = MlflowClient(tracking_uri=default_uri(root))
    folder.mkdir(exist_ok=True)
    return Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_text()
