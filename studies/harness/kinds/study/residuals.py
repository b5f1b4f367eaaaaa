"""Remark 5.6: the smaller the error of the Nystrom approximation, the faster the convergence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from trainables.files import read_lines
from trainables.store import COMPLETED, trial_folder

METRICS = ("train/loss", "test/loss")


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
