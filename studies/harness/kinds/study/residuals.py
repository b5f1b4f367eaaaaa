"""Remark 5.6: the smaller the error of the Nystrom approximation, the faster the convergence. Trials say so, or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from studies.harness.evidence import ledger
from studies.harness.kinds.study.study import Trial
from trainables.files import read_lines, write_atomically
from trainables.store import COMPLETED, trial_folder

METRICS = ("train/loss", "test/loss")


@dataclass(frozen=True, kw_only=True)
class ResidualFigure:
    """The final loss of each trial over its mean residual |A - A^|_F / |A|_F, by sketch.

    The mean is over the epochs and over all layers that were preconditioned: one with p <= r is kept exactly and has
    the residual 0. It needs trials that ran with `--diagnostics`; without any there is no figure.

    Attributes:
        optimizers: Whose trials are shown.
    """

    optimizers: tuple[str, ...]

    def table(self, trials: Sequence[Trial], root: Path) -> pd.DataFrame:
        """A row for each completed trial of the optimizers: `residual`, nan without diagnostics, and the losses."""
        mine = [t for t in trials if t.arm.optimizer in self.optimizers and "rank" in t.arm.factors]
        if not mine:
            return pd.DataFrame(columns=["residual"])
        frame: Any = ledger.frame(mine, root)
        frame = frame[frame["status"] == COMPLETED]
        residuals = [mean_residual(trial_folder(root, key)) for key in frame["trial_key"]]
        names = ["arm", "optimizer", "rank", "seed", "trial_key", *(name for name in METRICS if name in frame)]
        return frame[names].assign(residual=residuals)

    def draw(self, trials: Sequence[Trial], root: Path, folder: Path) -> list[Path]:
        """Draw the figure, and write its points as `residual.csv`; nothing when no trial has diagnostics."""
        table = self.table(trials, root)
        shown = table.dropna(subset=["residual"])
        if shown.empty:
            return []
        from studies.harness.report.figures import probes as probe_figures

        title = f"{len(shown)} of {len(table)} completed trials have diagnostics; a line is a seed\n"
        title += "Spearman's rank correlation over the ranks of a seed, mean over seeds:"
        orders = {metric: {name: order(shown, name, metric) for name in self.optimizers} for metric in METRICS}
        write_atomically(folder / "residual.csv", table.to_csv(index=False).encode())
        return [*probe_figures.draw_residuals(shown, orders, title, folder), folder / "residual.csv"]


def mean_residual(folder: Path) -> float:
    """A trial's mean over epochs and layers; nan where it ran without diagnostics."""
    rows = read_lines(folder / "diagnostics.jsonl")
    # A layer whose covariance is kept exactly has a spectrum and no residual; one that saw nothing has neither.
    values = [row["residual"] or 0.0 for row in rows if row["stable_rank"] is not None]
    return float(np.mean(values)) if values else np.nan


def order(table: Any, optimizer: str, metric: str) -> float:
    """Spearman's correlation of residual and metric over the ranks of a seed, mean over seeds.

    Trials of a seed share their initial weights and data: over all trials, the seeds' own differences would drown the
    ranks'. nan where no seed has three ranks.
    """
    found = []
    for _, trials in table[table["optimizer"] == optimizer].groupby("seed"):
        pair = trials[["residual", metric]].to_numpy(float)
        if len(pair) > 2 and (np.ptp(pair, axis=0) > 0).all():
            correlation: Any = stats.spearmanr(*pair.T)
            found.append(correlation.statistic)
    return float(np.mean(found)) if found else np.nan
