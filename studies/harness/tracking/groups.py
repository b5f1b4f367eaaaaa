"""Seeds as one: what MLflow's group run, one for each configuration, says of its trials. Imports no MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from studies.harness.evidence.ledger import IN_FLIGHT, NOT_RUN
from studies.harness.evidence.statistics import Summary, summarize
from studies.harness.kinds.study.study import Trial
from trainables.files import read_lines
from trainables.store import COMPLETED, trial_folder

SHOWN = ("train/", "test/", "val/")  # what is worth a mean over seeds; the rest describes one machine


@dataclass(frozen=True)
class SeedGroup:
    """The trials of one configuration.

    Attributes:
        first: One of them, for the arm and what they share.
        rows: Their rows of `ledger.frame(..., per="trial")`.
    """

    first: Trial
    rows: pd.DataFrame

    @property
    def done(self) -> bool:
        """Whether no trial is still to come."""
        return not {IN_FLIGHT, NOT_RUN} & set(self.rows["status"])

    @property
    def statuses(self) -> str:
        """`2 completed, 1 diverged`."""
        counts = self.rows["status"].value_counts().sort_index()
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    def completed(self) -> pd.DataFrame:
        """The rows of completed trials; no other enters a mean."""
        return self.rows.loc[self.rows["status"] == COMPLETED]

    def summary(self) -> dict[str, float]:
        """`mean/M sd/M ci_lo/M ci_hi/M` of each metric M at the last epoch, and `n`."""
        found, rows = {}, self.completed()
        for name in (name for name in rows.columns if name.startswith(SHOWN)):
            if len(values := rows[name].dropna().astype(float)):
                found |= {f"{part}/{name}": value for part, value in _spread(summarize(values)).items()}
        return {**found, "n": float(len(rows))}

    def curve(self, root: Path) -> pd.DataFrame:
        """Means over the completed trials by epoch.

        Returns:
            Columns `epoch metric n mean sd ci_lo ci_hi`.
        """
        epochs: dict[tuple[int, str], list[float]] = {}
        for key in self.completed()["trial_key"]:
            for line in read_lines(trial_folder(root, key) / "epochs.jsonl"):
                for name, value in line["metrics"].items():
                    if name.startswith(SHOWN):
                        epochs.setdefault((line["epoch"], name), []).append(value)
        rows = [{"epoch": e, "metric": name, **vars(summarize(v))} for (e, name), v in sorted(epochs.items())]
        return pd.DataFrame(rows, columns=["epoch", "metric", "n", "mean", "sd", "ci_lo", "ci_hi"])

    def seeds(self) -> pd.DataFrame:
        """A row for each seed: its status and last-epoch metrics."""
        metrics = [name for name in self.rows.columns if name.startswith(SHOWN)]
        return self.rows.loc[:, ["seed", "status", "trial_key", *metrics]]


def results(trials: Sequence[Trial], frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of trials on the whole training set; what a search scored on a part of it is no result."""
    scored = [trial.config.trial_key for trial in trials if trial.config.train_fraction < 1]
    return frame.loc[~frame["trial_key"].isin(scored)]


def seed_groups(trials: Sequence[Trial], frame: pd.DataFrame) -> dict[str, SeedGroup]:
    """A plan's groups with a completed trial, by group key, in the order of the plan."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.config.group_key, trial)
    groups = {str(key): SeedGroup(first[str(key)], rows) for key, rows in frame.groupby("group_key", sort=False)}
    return {key: group for key, group in groups.items() if len(group.completed())}


def shared_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's parameters without what its group does not share."""
    return {name: value for name, value in params.items() if name != "seed"}


def _spread(summary: Summary) -> dict[str, float]:
    return {"mean": summary.mean, "sd": summary.sd, "ci_lo": summary.ci_lo, "ci_hi": summary.ci_hi}
