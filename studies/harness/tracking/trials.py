"""Send trials to MLflow: a parent run, a run for each trial, and a run for each group of seeds.

Updates can be sent at any time and repeatedly. Each update identifies the runs by their keys, and
sends only new values. The parent run has the summary, and a trial's run has its curve. A group's
run has the mean and the interval over its completed trials, so that a user compares tens of runs
instead of hundreds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from studies.harness.design.arms import Trial, spelled
from studies.harness.design.result import Report
from studies.harness.evidence import ledger
from studies.harness.evidence.metrics import bounds, step
from studies.harness.evidence.status import IN_FLIGHT, NOT_RUN, STATUSES, reason
from studies.harness.statistics.intervals import summarize
from studies.harness.tracking import page
from studies.harness.tracking.client import PARENT, Experiment, Run, all_runs, fingerprint, points
from studies.harness.tracking.view import CLAIM_TAGS, View, claim_tags
from trainables.config import digest
from trainables.files import read_lines
from trainables.store import COMPLETED, read_status, trial_folder

PROVENANCE = ("git_sha", "git_dirty", "torch", "ray", "host")
AVERAGED = ("train/", "test/", "val/")  # averaged over seeds; other metrics describe a machine


@dataclass(frozen=True)
class SeedGroup:
    """The trials of one configuration.

    Attributes:
        first: The first trial, which has the arm and the parameters that all share.
        rows: Their rows of `ledger.frame(..., per="trial")`.
    """

    first: Trial
    rows: pd.DataFrame

    @property
    def done(self) -> bool:
        """True if all trials have ended."""
        return not {IN_FLIGHT, NOT_RUN} & set(self.rows["status"])

    @property
    def statuses(self) -> str:
        """The number of trials by status: `2 completed, 1 diverged`."""
        counts = self.rows["status"].value_counts().sort_index()
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    def completed(self) -> pd.DataFrame:
        """Return the rows of completed trials, which the means include."""
        return self.rows.loc[self.rows["status"] == COMPLETED]

    def summary(self) -> dict[str, float]:
        """Return `n`, and `mean/M`, `sd/M`, `ci_lo/M` and `ci_hi/M` of each last-epoch metric M."""
        metrics, rows, workload = {}, self.completed(), self.first.config.workload
        for name in (name for name in rows.columns if name.startswith(AVERAGED)):
            if len(values := rows[name].dropna().astype(float)):
                summary = vars(summarize(values, step(name, workload), bounds(name)))
                parts = ("mean", "sd", "ci_lo", "ci_hi")
                metrics |= {f"{part}/{name}": summary[part] for part in parts}
        return {**metrics, "n": float(len(rows))}

    def curve(self, root: Path) -> pd.DataFrame:
        """Return the means over the completed trials for each epoch.

        Returns:
            Columns `epoch metric n mean sd ci_lo ci_hi`.
        """
        epochs: dict[tuple[int, str], list[float]] = {}
        for key in self.completed()["trial_key"]:
            for line in read_lines(trial_folder(root, key) / "epochs.jsonl"):
                for name, value in line["metrics"].items():
                    if name.startswith(AVERAGED):
                        epochs.setdefault((line["epoch"], name), []).append(value)
        rows = [
            {"epoch": e, "metric": name, **vars(summarize(v, bounds=bounds(name)))}
            for (e, name), v in sorted(epochs.items())
        ]
        return pd.DataFrame(rows, columns=["epoch", "metric", "n", "mean", "sd", "ci_lo", "ci_hi"])


def seed_groups(trials: Sequence[Trial], frame: pd.DataFrame) -> dict[str, SeedGroup]:
    """Return the groups that have a completed trial, by group key, in the order of the plan.

    Trials on a part of the training set are omitted. A search uses them to score configurations,
    and they are not results.
    """
    first: dict[str, Trial] = {}
    for trial in trials:
        if trial.config.train_fraction == 1:
            first.setdefault(trial.config.group_key, trial)
    rows = {str(key): rows for key, rows in frame.groupby("group_key", sort=False)}
    groups = {key: SeedGroup(trial, rows[key]) for key, trial in first.items()}
    return {key: group for key, group in groups.items() if len(group.completed())}


class Sender:
    """An update of a view: the experiment, and its runs by the key of a trial or a group.

    The key of the parent run is empty.
    """

    def __init__(self, view: View, metric: str, trials: Sequence[Trial], uri: str):
        self.view, self.trials, self.root = view, trials, view.options.root
        dataset, _, model = view.workload.rpartition("/")
        self.common = {**view.tags, "dataset": dataset, "model": model}
        self.experiment = Experiment(uri, view.experiment, self.root)
        self.experiment.set_tags(page.tags(view.workload, metric, self.trials))
        runs = all_runs(
            self.experiment.client, self.experiment.id, f"tags.workload = '{view.workload}'"
        )
        self.runs = {
            run.data.tags.get("trial_key") or run.data.tags.get("group_key", ""): run
            for run in runs
        }
        self._centres: dict[str, bool] = {}

    def send(self, stopped: Collection[str], report: Report | None, mark: str) -> int:
        """Send trials, groups, summary and report; return the number of epochs sent."""
        frame = ledger.frame(self.trials, self.root)
        statuses = list(frame["status"])
        facts, workload = self.view.facts, self.view.workload
        tags = {
            **self.common,
            "kind": "study",
            "mlflow.note.content": page.description(facts, workload, self.trials),
            **claim_tags(report),
        }
        parent = self._run("", f"{facts.name} {workload}", tags)
        with self.experiment.marked(parent, mark):
            sent = sum(self._send_trial(trial, parent.info.run_id) for trial in self.trials)
            self._close(stopped)
            for key, seeds in seed_groups(self.trials, frame).items():
                self._send_group(key, seeds, parent.info.run_id)
            counts = {f"trials/{status}": float(statuses.count(status)) for status in STATUSES}
            metrics = report.metrics if report else {}
            results = {re.sub(r"[^A-Za-z0-9_./:-]", ".", k): v for k, v in metrics.items()}
            summary = {"trials/planned": float(len(frame)), **counts, **results}.items()
            known = parent.data.metrics
            changed = {name: value for name, value in summary if known.get(name) != value}
            self.experiment.log(parent, points(changed), tags=tags)
            if report:
                self.experiment.keep_tags(parent, CLAIM_TAGS, tags)
            done = not {IN_FLIGHT, NOT_RUN} & set(statuses)
            self.experiment.set_status(parent, "FINISHED" if done else "RUNNING", time.time())
            files = report.files if report else ()
            if files and parent.data.tags.get("artifacts") != fingerprint(files):
                self.experiment.log_files(parent, files)
        return sent

    def _run(
        self, key: str, name: str, tags: Mapping[str, str], start_s: float | None = None
    ) -> Run:
        if key not in self.runs:
            start_ms = None if start_s is None else int(1000 * start_s)
            create_run = self.experiment.client.create_run
            self.runs[key] = create_run(self.experiment.id, start_ms, dict(tags), name)
        return self.runs[key]

    def _send_trial(self, trial: Trial, parent_id: str) -> int:
        folder = trial_folder(self.root, trial.config.trial_key)
        # Read the status before the epochs: if it is `completed`, then all epochs are present.
        status = read_status(folder)
        attempts, lines = read_lines(folder / "attempts.jsonl"), read_lines(folder / "epochs.jsonl")
        if not attempts:  # no worker has started the trial
            return 0
        tags = self._trial_tags(trial, status, attempts[-1]) | {PARENT: parent_id}
        label = f"{trial.arm.label} s{trial.config.seed}"
        run = self._run(trial.config.trial_key, label, tags, attempts[0]["time"])
        new = lines[int(run.data.tags.get("epochs_sent", 0)) :]
        metrics = [
            point for line in new for point in points(line["metrics"], line["time"], line["epoch"])
        ]
        if new:
            tags["epochs_sent"] = str(len(lines))
        self.experiment.log(run, metrics, _params(trial), tags)
        if status is None:
            self.experiment.set_status(run, "RUNNING", 0)
        else:
            run_status = "FINISHED" if status["status"] == COMPLETED else "FAILED"
            self.experiment.set_status(run, run_status, status["time"])
        return len(new)

    def _close(self, stopped: Collection[str]) -> None:
        """Close the runs of trials that were stopped early; their folders have no status."""
        for key in sorted(stopped):
            run = self.runs.get(key)
            if run and run.info.status == "RUNNING":
                self.experiment.log(run, [], tags={"status": "stopped"})
                self.experiment.set_status(run, "KILLED", time.time())

    def _send_group(self, key: str, seeds: SeedGroup, parent_id: str) -> None:
        """Send the means over seeds, and the curve if all trials of the group have ended."""
        tags = self._arm_tags(seeds.first) | {
            "kind": "group",
            "group_key": key,
            "status": seeds.statuses,
        }
        run = self._run(key, seeds.first.arm.label, tags | {PARENT: parent_id}, time.time())
        averaged = [name for name in seeds.rows.columns if name.startswith(AVERAGED)]
        table = seeds.rows.loc[:, ["seed", "status", "trial_key", *averaged]].to_csv(index=False)
        sent = f"{digest(table)}{' curve' if seeds.done else ''}"
        if run.data.tags.get("seeds_sent") != sent:
            metrics, client = points(seeds.summary()), self.experiment.client
            client.log_text(run.info.run_id, table, "seeds.csv")
            if seeds.done:
                curve = seeds.curve(self.root)
                client.log_text(run.info.run_id, curve.to_csv(index=False), "curve.csv")
                means = zip(curve["metric"], curve["mean"], curve["epoch"], strict=True)
                metrics += [
                    point
                    for name, mean, epoch in means
                    for point in points({name: mean}, step=int(epoch))
                ]
            params = {name: value for name, value in _params(seeds.first).items() if name != "seed"}
            self.experiment.log(run, metrics, params, tags | {"seeds_sent": sent})
        self.experiment.set_status(run, "FINISHED" if seeds.done else "RUNNING", time.time())

    def _arm_tags(self, trial: Trial) -> dict[str, str]:
        arm, key = trial.arm, trial.config.group_key
        if key not in self._centres:  # resolve it once for all seeds
            self._centres[key] = trial.is_centre
        return {
            **self.common,
            "factor": ",".join(arm.factors),
            "level": ",".join(str(spelled(arm.overrides[name])) for name in arm.factors),
            "arm": "as-released" if arm.as_released else "corrected",
            "is_centre": str(self._centres[key]),
        }

    def _trial_tags(
        self, trial: Trial, status: Mapping[str, Any] | None, attempt: Mapping[str, Any]
    ) -> dict[str, str]:
        return {
            **self._arm_tags(trial),
            "kind": "trial",
            "trial_key": trial.config.trial_key,
            "group_key": trial.config.group_key,
            "status": IN_FLIGHT if status is None else str(status["status"]),
            "status_reason": reason(status or {}) or "",
            "gpu": "" if attempt.get("device", "cpu") == "cpu" else str(attempt["device"]),
            **{name: str(attempt[name]) for name in PROVENANCE if name in attempt},
        }


def _params(trial: Trial) -> dict[str, Any]:
    config = trial.config
    names = ("workload", "optimizer", "batch_size", "epochs", "schedule", "seed")
    return (
        {name: getattr(config, name) for name in names}
        | dict(config.settings)
        | dict(config.hyperparameters)
    )
