"""The views of trials and of single reports.

They import mlflow when they send, because the import takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.harness.design.arms import Trial
from studies.harness.design.result import Report
from studies.harness.tracking.view import NOTHING, View, claim_tags


@dataclass(frozen=True, kw_only=True)
class TrialsView(View):
    """A parent run with the report, and below it a run for each trial and for each configuration.

    Attributes:
        metric: The metric of the charts.
        trials: Returns the planned trials of the workload; their number may grow.
        stopped: Returns the keys of trials that were stopped early. Their runs are closed, and no
            longer updated.
    """

    metric: str
    trials: Callable[[], Sequence[Trial]]
    stopped: Callable[[], Collection[str]] = tuple

    def send(self, uri: str, report: Report | None = None, mark: str = "") -> str:
        """Send the epochs, the means over seeds, the number of trials by status, and the report."""
        from studies.harness.tracking.trials import Sender

        stopped = self.stopped()
        trials = [trial for trial in self.trials() if trial.config.trial_key not in stopped]
        if not trials and not stopped:
            return NOTHING
        return f"{Sender(self, self.metric, trials, uri).send(stopped, report, mark)} epochs sent"


@dataclass(frozen=True, kw_only=True)
class ReportView(View):
    """One run with the files and numbers of a report.

    Attributes:
        kind: The tag `kind`, such as `probe`.
        key: A digest of what the report describes, such as a probe and its configuration. It
            identifies the run.
        params: The run's parameters.
    """

    kind: str
    key: str
    params: Mapping[str, Any]

    def send(self, uri: str, report: Report | None = None, mark: str = "") -> str:
        """Send the report if its files have changed."""
        if report is None:
            return NOTHING
        from studies.harness.tracking.client import Experiment, all_runs, fingerprint, points

        experiment = Experiment(uri, self.experiment, self.options.root)
        client, name = experiment.client, f"{self.facts.name} {self.workload}"
        tags = {**self.tags, "kind": self.kind, "group_key": self.key, **claim_tags(report)}
        runs = all_runs(client, experiment.id, f"tags.group_key = '{self.key}'")
        run = runs[0] if runs else client.create_run(experiment.id, tags=tags, run_name=name)
        with experiment.marked(run, mark):
            if run.data.tags.get("artifacts") == fingerprint(report.files):
                return NOTHING
            metrics = {
                re.sub(r"[^A-Za-z0-9_./ :-]", ".", name): value
                for name, value in report.metrics.items()
            }
            experiment.log(run, points(metrics), self.params, tags)
            client.set_terminated(run.info.run_id)
            # Send the files last: if the process is killed before, the next update sends all again.
            experiment.log_files(run, report.files)
        return "sent"
