"""Remark 5.6: the smaller the error of the Nystrom approximation, the faster the convergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from studies.harness.kinds.study.figures import Extension, Figure
from trainables.files import read_lines
from trainables.store import COMPLETED, trial_folder

if TYPE_CHECKING:
    import pandas as pd

    from studies.harness.evidence.analysis import Evidence
    from studies.harness.kinds.study.plan import StudyPlan

METRICS = ("train/loss", "test/loss")


@dataclass(frozen=True, kw_only=True)
class ResidualFigure(Figure):
    """The final loss of each trial over its mean residual |A - A^|_F / |A|_F, by sketch.

    The mean is over the epochs and over all layers that were preconditioned: one with p <= r is kept exactly and has
    the residual 0. It needs trials that ran with `--diagnostics`; without any there is no figure.

    Attributes:
        optimizers: Their trials are shown.
    """

    optimizers: tuple[str, ...]

    def extend(self, plan: StudyPlan, evidence: Evidence) -> Extension:
        """Draw `residual.pdf`, `.png` and `.svg`, and write the points as `residual.csv`."""
        table = residual_table(evidence.frame, self.optimizers, plan.root)
        shown = table.dropna(subset=["residual"])
        if shown.empty:
            return Extension()
        from studies.harness.report.figures.residual import draw_residuals

        title = f"{len(shown)} of {len(table)} completed trials have diagnostics; a line is a seed\n"
        title += "Spearman's rank correlation over the ranks of a seed, mean over seeds:"
        orders = {metric: {name: order(shown, name, metric) for name in self.optimizers} for metric in METRICS}
        drawn = draw_residuals(shown, orders, title, plan.folder)
        return Extension(drawn=drawn, files={"residual.csv": table.to_csv(index=False)})


def residual_table(frame: Any, optimizers: Sequence[str], root: Path) -> pd.DataFrame:
    """Return a row for each completed trial that has a rank: `residual`, nan without diagnostics, and the losses.

    Args:
        frame: `ledger.frame(..., per="trial")`.
        optimizers: Of the trials.
        root: The output folder.
    """
    ranked = frame["rank"].notna() if "rank" in frame else False
    rows = frame[frame["optimizer"].isin(optimizers) & ranked & (frame["status"] == COMPLETED)]
    names = ["arm", "optimizer", "rank", "seed", "trial_key", *METRICS]
    residuals = [mean_residual(trial_folder(root, key)) for key in rows["trial_key"]]
    return rows[[name for name in names if name in rows]].assign(residual=residuals)


def mean_residual(folder: Path) -> float:
    """Return a trial's mean over epochs and layers; nan if it ran without diagnostics."""
    rows = read_lines(folder / "diagnostics.jsonl")
    # A layer whose covariance is kept exactly has a spectrum and no residual; one that saw nothing has neither.
    values = [row["residual"] or 0.0 for row in rows if row["stable_rank"] is not None]
    return float(np.mean(values)) if values else np.nan


def order(table: Any, optimizer: str, metric: str) -> float:
    """Return Spearman's correlation of residual and metric over the ranks of a seed, mean over seeds.

    Trials of a seed share their initial weights and data: over all trials, the differences between seeds would hide
    those between ranks. nan if no seed has three ranks.
    """
    correlations = []
    for _, trials in table[table["optimizer"] == optimizer].groupby("seed"):
        pair = trials[["residual", metric]].to_numpy(float)
        if len(pair) > 2 and (np.ptp(pair, axis=0) > 0).all():
            correlation: Any = stats.spearmanr(*pair.T)
            correlations.append(correlation.statistic)
    return float(np.mean(correlations)) if correlations else np.nan
