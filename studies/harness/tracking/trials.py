"""Send trials to MLflow: a parent run, a run for each trial, and a run for each group of seeds.

Updates can be sent at any time and repeatedly. Each update identifies the runs by their keys, and
sends only new values. The parent run has the summary, and a trial's run has its curve. A group's
run has the mean and the interval over its completed trials, so that a user compares tens of runs
instead of hundreds.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from studies.harness.design.arms import Trial, spelled
from studies.harness.design.configurations import DIGESTS, configuration_of, varied
from studies.harness.design.result import Report
from studies.harness.evidence import ledger
from studies.harness.evidence.status import IN_FLIGHT, NOT_RUN, STATUSES, reason
from studies.harness.tracking import page
from studies.harness.tracking.client import PARENT, Experiment, Run, fingerprint, points
from studies.harness.tracking.groups import AVERAGED, SeedGroup, seed_groups
from studies.harness.tracking.view import CLAIM_TAGS, Sent, View, claim_tags
from trainables.config import digest
from trainables.files import read_lines
from trainables.store import COMPLETED, read_status, trial_folder

PROVENANCE = ("git_sha", "git_dirty", "torch", "ray", "host")
CONFIG = "config.json"  # the artifact with the complete configuration of a run


class Sender:
    """An update of a view: the experiment, and its runs by key and selection.

    The key of a trial's run is the trial's, and its selection is empty: all selections share it. The
    key of a group's run is the group's, and that of the parent run is empty.
    """

    def __init__(self, view: View, metric: str, trials: Sequence[Trial], uri: str):
        self.view, self.trials, self.root = view, trials, view.options.root
        dataset, _, model = view.workload.rpartition("/")
        self.common = {**view.tags, "dataset": dataset, "model": model}
        self.metric, self.params = metric, params(trials)
        self.experiment = Experiment(uri, view.experiment, self.root)
        self.runs: dict[tuple[str, str], Run] = {}
        for run in self.experiment.runs("workload", view.workload):
            tags = run.data.tags
            key = tags.get("trial_key") or tags.get("group_key", "")
            self.runs[key, "" if "trial_key" in tags else tags.get("selection", "")] = run
        self._centres: dict[str, bool] = {}

    def send(self, stopped: Collection[str], report: Report | None, mark: str) -> Sent:
        """Send trials, groups, summary and report."""
        frame = ledger.frame(self.trials, self.root)
        statuses = list(frame["status"])
        tags = {
            **self.common,
            **self.view.selection_tags,
            "kind": "study",
            "mlflow.note.content": page.description(
                self.view.facts, self.view.workload, self.trials
            ),
            **claim_tags(report),
        }
        parent = self._run("", self.view.run_name, tags, selection=self.view.selection)
        self.experiment.set_tags(page.tags(self.view, parent.info.run_id, self.metric, self.trials))
        with self.experiment.marked(parent, mark):
            epochs = sum(self._send_trial(trial, parent.info.run_id) for trial in self.trials)
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
        runs, restored = len(self.experiment.changed), self.experiment.restored
        return Sent(runs=runs, epochs=epochs, restored=restored)

    def _run(
        self,
        key: str,
        name: str,
        tags: Mapping[str, str],
        start_s: float | None = None,
        selection: str = "",
    ) -> Run:
        if (key, selection) not in self.runs:
            self.runs[key, selection] = self.experiment.create_run(tags, name, start_s)
        return self.runs[key, selection]

    def _send_trial(self, trial: Trial, parent_id: str) -> int:
        folder = trial_folder(self.root, trial.config.trial_key)
        # Read the status before the epochs: if it is `completed`, then all epochs are present.
        status = read_status(folder)
        attempts, lines = read_lines(folder / "attempts.jsonl"), read_lines(folder / "epochs.jsonl")
        if not attempts:  # no worker has started the trial
            return 0
        tags = self._trial_tags(trial, status, attempts[-1])
        label = f"{trial.arm.label} s{trial.config.seed}"
        start_s = attempts[0]["time"]
        run = self._run(trial.config.trial_key, label, {**tags, PARENT: parent_id}, start_s)
        if run.data.tags.get(PARENT) not in self._parents():  # a user has deleted the parent
            tags[PARENT] = parent_id
        new = lines[int(run.data.tags.get("epochs_sent", 0)) :]
        metrics = [
            point for line in new for point in points(line["metrics"], line["time"], line["epoch"])
        ]
        if new:
            tags["epochs_sent"] = str(len(lines))
        tags |= self._send_config(run, (folder / CONFIG).read_text())
        self.experiment.log(run, metrics, self._params(trial), tags)
        if status is None:
            self.experiment.set_status(run, "RUNNING", 0)
        else:
            run_status = "FINISHED" if status["status"] == COMPLETED else "FAILED"
            self.experiment.set_status(run, run_status, status["time"])
        return len(new)

    def _parents(self) -> set[str]:
        """Return the IDs of the parent runs of all selections."""
        return {run.info.run_id for (key, _), run in self.runs.items() if key == ""}

    def _send_config(self, run: Run, content: str) -> dict[str, str]:
        """Send a complete configuration unless it was sent; return the tag that records this."""
        if "config" not in run.data.tags:
            self.experiment.client.log_text(run.info.run_id, content, CONFIG)
        return {"config": CONFIG}

    def _close(self, stopped: Collection[str]) -> None:
        """Close the runs of trials that were stopped early; their folders have no status."""
        for key in sorted(stopped):
            run = self.runs.get((key, ""))
            if run and run.info.status == "RUNNING":
                self.experiment.log(run, [], tags={"status": "stopped"})
                self.experiment.set_status(run, "KILLED", time.time())

    def _send_group(self, key: str, seeds: SeedGroup, parent_id: str) -> None:
        """Send the means over seeds, and the curve if all trials of the group have ended."""
        tags = self._arm_tags(seeds.first) | {
            **self.view.selection_tags,
            "kind": "group",
            "group_key": key,
            "status": seeds.statuses,
            PARENT: parent_id,
        }
        selection, metrics = self.view.selection, []
        run = self._run(key, seeds.first.arm.label, tags, time.time(), selection)
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
        config = {k: v for k, v in seeds.first.config.to_dict().items() if k != "seed"}
        tags |= self._send_config(run, json.dumps({"group_key": key, "config": config}, indent=1))
        params = {name: v for name, v in self._params(seeds.first).items() if name != "seed"}
        self.experiment.log(run, metrics, params, tags | {"seeds_sent": sent})
        self.experiment.set_status(run, "FINISHED" if seeds.done else "RUNNING", time.time())

    def _params(self, trial: Trial) -> dict[str, Any]:
        """Return the optimizer, the values that vary among the planned trials, and the seed."""
        values = configuration_of(trial.config.to_dict())
        names = [name for name in self.params if name in values]
        return {
            "optimizer": trial.config.optimizer,
            **{name: values[name] for name in names},
            "seed": trial.config.seed,
        }

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


def params(trials: Sequence[Trial]) -> list[str]:
    """Return the factors of trials, and the names of all settings that differ between trials.

    The digests of plugins and data are omitted.
    """
    factors = [name for trial in trials for name in trial.arm.factors]
    different = varied(configuration_of(trial.config.to_dict()) for trial in trials)
    return [*dict.fromkeys(factors + [name for name in different if name not in DIGESTS])]
