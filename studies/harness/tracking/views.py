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
from studies.harness.tracking.view import Sent, View, claim_tags


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

    def send(self, uri: str, report: Report | None = None, mark: str = "") -> Sent:
        """Send the epochs, the means over seeds, the number of trials by status, and the report."""
        from studies.harness.tracking.trials import Sender

        stopped = self.stopped()
        trials = [trial for trial in self.trials() if trial.config.trial_key not in stopped]
        if not trials and not stopped:
            return Sent()
        return Sender(self, self.metric, trials, uri).send(stopped, report, mark)

    @property
    def trial_keys(self) -> frozenset[str]:
        """The keys of the planned trials and of those that were stopped early."""
        return frozenset([*(trial.config.trial_key for trial in self.trials()), *self.stopped()])


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

    def send(self, uri: str, report: Report | None = None, mark: str = "") -> Sent:
        """Send the report if its files have changed."""
        if report is None:
            return Sent()
        from studies.harness.tracking import page
        from studies.harness.tracking.client import Experiment, fingerprint, points

        experiment = Experiment(uri, self.experiment, self.options.root)
        experiment.set_tags(page.experiment_tags(self.facts))
        tags = {**self.tags, **self.selection_tags, "kind": self.kind, "group_key": self.key}
        tags |= claim_tags(report)
        tags["mlflow.note.content"] = page.summary(self.facts, self.workload)
        runs = [
            run
            for run in experiment.runs("group_key", self.key)
            if run.data.tags.get("selection", "") == self.selection
        ]
        run = runs[0] if runs else experiment.create_run(tags, self.run_name)
        with experiment.marked(run, mark):
            if run.data.tags.get("artifacts") != fingerprint(report.files):
                metrics = {
                    re.sub(r"[^A-Za-z0-9_./ :-]", ".", name): value
                    for name, value in report.metrics.items()
                }
                experiment.log(run, points(metrics), self.params, tags)
                experiment.client.set_terminated(run.info.run_id)
                # Send the files last: if the process is killed before, the next update sends all.
                experiment.log_files(run, report.files)
            else:
                experiment.log(run, [], tags=tags)
        return Sent(runs=len(experiment.changed), restored=experiment.restored)
