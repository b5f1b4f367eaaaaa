"""MLflow as a view of the trial folders, written by the driver. The only file that imports mlflow.

`sync` may be called at any time and again: it finds each trial's run by its key and sends what that run still lacks.
One parent run per (study, workload) holds the summary; below it one run per trial holds its curve, and one per group of
seeds the mean and interval over its completed trials, so that tens of runs can be compared instead of hundreds.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read when mlflow is imported. A server that does not answer must not hold up the driver.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run on a server

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from studies.harness.evidence import ledger
from studies.harness.evidence.statistics import group
from studies.harness.kinds.study.study import Study, Trial
from studies.harness.tracking import views
from studies.harness.tracking.groups import SeedGroup, results, seed_groups, shared_params
from studies.harness.tracking.notes import description
from trainables.config import digest
from trainables.files import read_lines
from trainables.store import COMPLETED, read_status, trial_folder

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

PROVENANCE = ("git_sha", "git_dirty", "torch", "ray", "host")
BATCH = 800  # metrics per request; a request holds at most 1000 metrics, parameters and tags
PARENT = "mlflow.parentRunId"
_one_at_a_time = threading.Lock()  # two syncs at once could both create the run of a new trial


def default_uri(root: Path) -> str:
    """The database in the output folder."""
    return f"sqlite:///{root.resolve() / 'mlflow.db'}"


def experiment(client: MlflowClient, name: str, root: Path, uri: str) -> str:
    """The id of an experiment, which is made where there is none."""
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    # A server has its own place for artifacts; for a local database mlflow would take the current directory.
    place = (root.resolve() / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
    return client.create_experiment(name, artifact_location=place)


def fingerprint(paths: Sequence[Path]) -> str:
    """What files are called and hold, in 64 hexadecimal digits, whatever their order."""
    parts = sorted(path.name.encode() + path.read_bytes() for path in paths)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def sync(
    study: Study,
    trials: Sequence[Trial],
    root: Path,
    uri: str | None = None,
    artifacts: Sequence[Path] = (),
    smoke: bool = False,
) -> int:
    """Bring MLflow up to date with the folders of the planned trials; runs of other trials are left alone.

    Args:
        study: Its name is the experiment, with `-smoke` appended for a smoke run.
        trials: The planned trials, all of one workload.
        root: The output folder.
        uri: Tracking server or database; `default_uri(root)` when None.
        artifacts: Files for the parent run, sent when their content changed.
        smoke: Whether this is a smoke run.

    Returns:
        The number of epochs sent; 0 without any write when nothing changed.
    """
    with _one_at_a_time:
        return _Sync(study, trials, root, uri or default_uri(root), smoke).send(artifacts)


def all_runs(client: MlflowClient, experiment_id: str, filter_string: str) -> list[Run]:
    """What a search finds, over all its pages."""
    runs, token = [], None
    while token != "":
        with _without_collections():
            page = client.search_runs([experiment_id], filter_string, page_token=token)
        runs += list(page)
        token = page.token or ""
    return runs


@contextmanager
def _without_collections() -> Iterator[None]:
    """A page is some 10^5 objects, none in a cycle; to look for cycles among them takes twice as long as the search."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Sync:
    """One call of `sync`: the client, and the runs that exist."""

    def __init__(self, study: Study, trials: Sequence[Trial], root: Path, uri: str, smoke: bool):
        self.study, self.trials, self.root = study, trials, root
        self.workload = trials[0].config.workload
        dataset, _, model = self.workload.rpartition("/")
        self.name = f"{study.name}-smoke" if smoke else study.name
        self.common = {
            "study": study.name,
            "paper": study.paper,
            "table": study.table,
            "workload": self.workload,
            "dataset": dataset,
            "model": model,
            "smoke": str(smoke),
        }
        self.root.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = experiment(self.client, self.name, root, uri)
        views.keep(self.client, self.experiment, views.tags(study, trials))
        self.runs = self._runs()
        self._centres: dict[str, bool] = {}

    def send(self, artifacts: Sequence[Path]) -> int:
        """Send trials, summary and artifacts; the number of epochs sent."""
        frame = ledger.frame(self.trials, self.root)
        parent = self.runs.get("") or self._create("", f"{self.study.name} {self.workload}", self._parent_tags(), None)
        sent = sum(self._send_trial(trial, parent.info.run_id) for trial in self.trials)
        known = parent.data.metrics
        shown = results(self.trials, frame)
        summary = _summary(self.study, frame, shown).items()
        summary = {name: value for name, value in summary if known.get(name) != value}
        now = time.time()
        for key, seeds in seed_groups(self.trials, shown).items():
            self._send_group(key, seeds, parent.info.run_id, now)
        self._log(parent, _metrics(summary, now, step=0), {}, self._parent_tags())
        done = not {ledger.IN_FLIGHT, ledger.NOT_RUN} & set(frame["status"])
        self._set_status(parent, "FINISHED" if done else "RUNNING", now)
        self._send_artifacts(parent, artifacts)
        return sent

    def _runs(self) -> dict[str, Run]:
        """All runs of this study and workload by trial key or group key; the parent has the key "" ."""
        found = all_runs(self.client, self.experiment, f"tags.workload = '{self.workload}'")
        return {_key(run.data.tags): run for run in found}

    def _create(self, key: str, name: str, tags: Mapping[str, str], start_s: float | None) -> Run:
        start_ms = None if start_s is None else int(1000 * start_s)
        self.runs[key] = self.client.create_run(self.experiment, start_ms, dict(tags), name)
        return self.runs[key]

    def _send_trial(self, trial: Trial, parent_id: str) -> int:
        folder = trial_folder(self.root, trial.config.trial_key)
        status = read_status(folder)  # before the epochs: a trial that reads as completed then has all of them
        attempts, lines = read_lines(folder / "attempts.jsonl"), read_lines(folder / "epochs.jsonl")
        if not attempts:  # no worker has begun
            return 0
        tags = self._trial_tags(trial, status, attempts[-1]) | {PARENT: parent_id}
        key, name = trial.config.trial_key, f"{trial.arm.label} s{trial.config.seed}"
        run = self.runs.get(key) or self._create(key, name, tags, attempts[0]["time"])
        new = lines[int(run.data.tags.get("epochs_sent", 0)) :]
        metrics = [m for line in new for m in _metrics(line["metrics"], line["time"], line["epoch"])]
        self._log(run, metrics, _params(trial), tags | ({"epochs_sent": str(len(lines))} if new else {}))
        if status is None:
            self._set_status(run, "RUNNING", 0)
        else:
            self._set_status(run, "FINISHED" if status["status"] == COMPLETED else "FAILED", status["time"])
        return len(new)

    def _send_group(self, key: str, seeds: SeedGroup, parent_id: str, now: float) -> None:
        """Means over seeds, sent anew when a trial of the group ended; the curve once none is still to come."""
        arm = seeds.first.arm
        tags = self._arm_tags(seeds.first) | {"kind": "group", "group_key": key, "status": seeds.statuses}
        run = self.runs.get(key) or self._create(key, arm.label, tags | {PARENT: parent_id}, now)
        table = seeds.seeds().to_csv(index=False)
        sent = f"{digest(table)}{' curve' if seeds.done else ''}"
        if run.data.tags.get("seeds_sent") != sent:
            metrics = _metrics(seeds.summary(), now, step=0)
            self.client.log_text(run.info.run_id, table, "seeds.csv")
            if seeds.done:
                curve = seeds.curve(self.root)
                self.client.log_text(run.info.run_id, curve.to_csv(index=False), "curve.csv")
                points = zip(curve["metric"], curve["mean"], curve["epoch"], strict=True)
                metrics += [point for name, mean, epoch in points for point in _metrics({name: mean}, now, int(epoch))]
            self._log(run, metrics, shared_params(_params(seeds.first)), tags | {"seeds_sent": sent})
        self._set_status(run, "FINISHED" if seeds.done else "RUNNING", now)

    def _log(self, run: Run, metrics: list[Metric], params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Send metrics, and of the parameters and tags those that the run lacks.

        The tags, and so the high-water mark, go last. Killed before, the same points are sent again, which mlflow drops
        because key, value, step and timestamp are all equal.
        """
        new_params = [Param(name, str(value)) for name, value in params.items() if name not in run.data.params]
        new_tags = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name, "") != value]
        while len(metrics) > BATCH:
            self.client.log_batch(run.info.run_id, metrics[:BATCH])
            metrics = metrics[BATCH:]
        if metrics or new_params or new_tags:
            self.client.log_batch(run.info.run_id, metrics, new_params, new_tags)

    def _set_status(self, run: Run, status: str, end_s: float) -> None:
        if run.info.status == status:
            return
        if status == "RUNNING":  # retried, or extended by more trials
            self.client.update_run(run.info.run_id, status)
        else:
            self.client.set_terminated(run.info.run_id, status, int(1000 * end_s))

    def _send_artifacts(self, parent: Run, paths: Sequence[Path]) -> None:
        content = fingerprint(paths)
        if paths and parent.data.tags.get("artifacts") != content:
            for path in paths:
                self.client.log_artifact(parent.info.run_id, str(path))
            self.client.set_tag(parent.info.run_id, "artifacts", content)

    def _parent_tags(self) -> dict[str, str]:
        return {**self.common, "kind": "study", "mlflow.note.content": description(self.study, self.trials)}

    def _arm_tags(self, trial: Trial) -> dict[str, str]:
        arm = trial.arm
        return {
            **self.common,
            "factor": ",".join(arm.factors),
            "level": ",".join(str(arm.overrides[name]) for name in arm.factors),
            "arm": "faithful" if arm.faithful else "consistent",
            "is_centre": str(self._is_centre(trial)),
        }

    def _is_centre(self, trial: Trial) -> bool:
        """Whether every factor is at the value that the recipe gives it; resolved once for all seeds."""
        if (key := trial.config.group_key) not in self._centres:
            self._centres[key] = trial.is_centre
        return self._centres[key]

    def _trial_tags(self, trial: Trial, status: Mapping[str, Any] | None, attempt: Mapping[str, Any]) -> dict[str, str]:
        return {
            **self._arm_tags(trial),
            "kind": "trial",
            "trial_key": trial.config.trial_key,
            "group_key": trial.config.group_key,
            "status": ledger.IN_FLIGHT if status is None else str(status["status"]),
            "status_reason": ledger.reason(status or {}) or "",
            "gpu": "" if attempt.get("device", "cpu") == "cpu" else str(attempt["device"]),
            **{name: str(attempt[name]) for name in PROVENANCE if name in attempt},
        }


def _key(tags: Mapping[str, str]) -> str:
    """What a run is found by: of a trial its key, of a group the group's, of the parent nothing."""
    return tags.get("trial_key") or tags.get("group_key", "")


def _params(trial: Trial) -> dict[str, Any]:
    config = trial.config
    names = ("workload", "optimizer", "batch_size", "epochs", "schedule", "seed")
    return {name: getattr(config, name) for name in names} | dict(config.settings) | dict(config.hyperparameters)


def _metrics(values: Mapping[str, float], time_s: float, step: int) -> list[Metric]:
    """Points for mlflow, which would turn infinity into 1.8e308: only finite values are sent."""
    return [Metric(name, value, int(1000 * time_s), step) for name, value in values.items() if math.isfinite(value)]


def _summary(study: Study, frame: Any, shown: Any) -> dict[str, float]:
    """The parent's metrics: the trials by status, and the mean with its interval of each arm that is shown."""
    counts = {f"trials/{status}": float(list(frame["status"]).count(status)) for status in ledger.STATUSES}
    arms = {
        f"{field}/{re.sub(r'[^A-Za-z0-9_./:-]', '.', arm['arm'])}": float(arm[field])
        for arm in (group(shown, study.figure.metric).to_dict("records") if len(shown) else [])
        for field in ("mean", "sd", "ci_lo", "ci_hi", "n")
    }
    return {"trials/planned": float(len(frame)), **counts, **arms}
