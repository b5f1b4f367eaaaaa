"""The views of trials and of single reports. They import mlflow only to send, since its import takes seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.harness.design.arms import Trial
from studies.harness.design.result import Report
from studies.harness.tracking.view import NOTHING, View


@dataclass(frozen=True, kw_only=True)
class TrialsView(View):
    """A parent run with the report, and below it a run for each trial and for each configuration.

    Attributes:
        metric: What the charts show.
        trials: Returns the planned trials, all of the workload; they may become more.
        stopped: Returns the keys of trials that were stopped early: their runs are closed, and not sent again.
    """

    metric: str
    trials: Callable[[], Sequence[Trial]]
    stopped: Callable[[], Collection[str]] = tuple

    def send(self, uri: str, report: Report | None = None, mark: str = "") -> str:
        """Send the epochs of trials, the means over seeds, the number of trials by status, and the report."""
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
        kind: The tag `kind`: `probe`.
        key: Identity of what the report is about; the run is found by it.
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

        place = Experiment(uri, self.experiment, self.options.root)
        name, tags = (
            f"{self.facts.name} {self.workload}",
            {**self.tags, "kind": self.kind, "group_key": self.key},
        )
        runs = all_runs(place.client, place.id, f"tags.group_key = '{self.key}'")
        run = runs[0] if runs else place.client.create_run(place.id, tags=tags, run_name=name)
        with place.marked(run, mark):
            if run.data.tags.get("artifacts") == fingerprint(report.files):
                return NOTHING
            metrics = {
                re.sub(r"[^A-Za-z0-9_./ :-]", ".", name): value
                for name, value in report.metrics.items()
            }
            place.log(run, points(metrics), self.params)
            place.client.set_terminated(run.info.run_id)
            place.log_files(
                run, report.files
            )  # last: if the process is killed before, all is sent again
        return "sent"
