"""Write to an MLflow experiment; send only the values that a run does not have. Imports mlflow."""

from __future__ import annotations

import gc
import hashlib
import logging
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# mlflow reads these variables on import. A server that does not answer must not delay the driver.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag

from studies.harness.design.uris import sqlite_path, sqlite_uri
from studies.harness.tracking import locations
from studies.harness.tracking.view import MARK

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

BATCH = 800  # metrics per request; a request may have 1000 metrics, parameters and tags
PARENT = "mlflow.parentRunId"


class Experiment:
    """An experiment in MLflow; the constructor creates it if it does not exist.

    An experiment that a user has deleted is restored, because MLflow keeps its name reserved. In
    the output folder's own database, the paths of artifacts are corrected if the folder has moved.

    Args:
        uri: Tracking server or database.
        name: Name of the experiment.
        root: The output folder, which stores the artifacts of a local database.

    Attributes:
        changed: The IDs of the runs that were created or changed.
        restored: A line for the user if the experiment was deleted, otherwise empty.
    """

    def __init__(self, uri: str, name: str, root: Path):
        root.mkdir(parents=True, exist_ok=True)
        create_database(uri)
        locations.repair(root, uri)
        self.client = MlflowClient(tracking_uri=uri)
        self.changed: set[str] = set()
        self.restored = ""
        if experiment := self.client.get_experiment_by_name(name):
            self.id = experiment.experiment_id
            if experiment.lifecycle_stage == LifecycleStage.DELETED:
                self.client.restore_experiment(self.id)
                self.restored = f"MLflow experiment {name} was deleted; it has been restored"
            return
        # A server chooses the folder for artifacts; for a local database, mlflow would use the
        # current directory.
        folder = None if sqlite_path(uri) is None else locations.location(root)
        tags = {locations.CREATED_BY: name}
        self.id = self.client.create_experiment(name, artifact_location=folder, tags=tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set the tags that are new or changed."""
        for name, value in tags.items() - self.client.get_experiment(self.id).tags.items():
            self.client.set_experiment_tag(self.id, name, value)

    def runs(self, tag: str, value: str) -> list[Run]:
        """Return the runs with a value of a tag."""
        quote = '"' if "'" in value else "'"
        return all_runs(self.client, self.id, f"tags.{tag} = {quote}{value}{quote}")

    def create_run(self, tags: Mapping[str, str], name: str, start_s: float | None = None) -> Run:
        """Create a run that starts at a Unix time, or now."""
        start_ms = None if start_s is None else int(1000 * start_s)
        run = self.client.create_run(self.id, start_ms, dict(tags), name)
        self.changed.add(run.info.run_id)
        return run

    def log(
        self,
        run: Run,
        metrics: list[Metric],
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] = {},
    ) -> None:
        """Send metrics, new parameters, and new or changed tags.

        The tags are sent last, because one of them is the number of epochs sent. If the process is
        killed before that, the next call sends the same points again. mlflow drops them, because
        key, value, step and timestamp are equal.
        """
        new = {name: value for name, value in (params or {}).items() if name not in run.data.params}
        changed = {name: v for name, v in tags.items() if run.data.tags.get(name, "") != v}
        new_params = [Param(name, str(value)) for name, value in new.items()]
        new_tags = [RunTag(name, value) for name, value in changed.items()]
        if metrics or new or changed:
            self.changed.add(run.info.run_id)
        while len(metrics) > BATCH:
            self.client.log_batch(run.info.run_id, metrics[:BATCH])
            metrics = metrics[BATCH:]
        if metrics or new_params or new_tags:
            self.client.log_batch(run.info.run_id, metrics, new_params, new_tags)

    def keep_tags(self, run: Run, prefixes: tuple[str, ...], names: Collection[str]) -> None:
        """Delete the tags of a run with one of the prefixes, except those with the given names."""
        for name in run.data.tags:
            if name.startswith(prefixes) and name not in names:
                self.client.delete_tag(run.info.run_id, name)

    def log_files(self, run: Run, paths: Sequence[Path]) -> None:
        """Send the files of a report, and then a tag with the digest of their contents."""
        self.changed.add(run.info.run_id)
        for path in paths:
            self.client.log_artifact(run.info.run_id, str(path))
        self.client.set_tag(run.info.run_id, "artifacts", fingerprint(paths))

    def set_status(self, run: Run, status: str, end_s: float) -> None:
        """Set a run's status if it has changed."""
        if run.info.status == status:
            return
        self.changed.add(run.info.run_id)
        if status == "RUNNING":  # a retried trial, or a study with additional trials
            self.client.update_run(run.info.run_id, status)
        else:
            self.client.set_terminated(run.info.run_id, status, int(1000 * end_s))

    @contextmanager
    def marked(self, run: Run, mark: str) -> Iterator[None]:
        """Remove a run's mark if it is different, and set the new mark at the end of the block."""
        known = run.data.tags.get(MARK, "")
        if known not in ("", mark):
            self.client.set_tag(run.info.run_id, MARK, "")
        yield
        if mark not in ("", known):
            self.client.set_tag(run.info.run_id, MARK, mark)


def create_database(uri: str) -> None:
    """Create a local database atomically, because mlflow cannot use an incomplete database."""
    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    check(sqlite_uri(temporary))
    with suppress(FileExistsError):  # another process was faster
        os.link(temporary, path)
    temporary.unlink()


def check(uri: str) -> None:
    """Raise an exception if a tracking server or database does not answer."""
    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def all_runs(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    """Return the runs of an experiment that match a query, from all pages."""
    runs, token, enabled = [], None, gc.isenabled()
    # A page has about 10^5 objects and no cycles; garbage collection would take twice as long as
    # the search itself.
    gc.disable()
    try:
        while token != "":
            page = client.search_runs([experiment_id], query, page_token=token)
            runs, token = runs + list(page), page.token or ""
    finally:
        if enabled:
            gc.enable()
    return runs


def points(values: Mapping[str, float], time_s: float | None = None, step: int = 0) -> list[Metric]:
    """Return the finite values as metrics at a Unix time, or now.

    Other values are omitted, because mlflow would store infinity as 1.8e308.
    """
    time_ms = int(1000 * (time.time() if time_s is None else time_s))
    return [
        Metric(name, value, time_ms, step) for name, value in values.items() if math.isfinite(value)
    ]


def fingerprint(paths: Sequence[Path]) -> str:
    """Return the SHA-256 digest of the names and contents of files, regardless of their order."""
    parts = sorted(path.name.encode() + path.read_bytes() for path in paths)
    return hashlib.sha256(b"".join(parts)).hexdigest()
