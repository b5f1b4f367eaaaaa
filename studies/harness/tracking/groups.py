"""The trials of a configuration under several seeds, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.evidence.metrics import bounds, step
from studies.harness.evidence.status import IN_FLIGHT, NOT_RUN
from studies.harness.statistics.intervals import summarize
from trainables.files import read_lines
from trainables.store import COMPLETED, trial_folder

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
