"""The data of Remark 5.6: the smaller the error of the Nystrom approximation, the faster the convergence."""

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
    """Return the losses and the `residual` of each completed trial with a rank in a `ledger.frame`.

    The residual is nan for a trial without diagnostics.
    """
    ranked = frame["rank"].notna() if "rank" in frame else False
    rows = frame[frame["optimizer"].isin(optimizers) & ranked & (frame["status"] == COMPLETED)]
    names = ["arm", "optimizer", "rank", "seed", "trial_key", *METRICS]
    residuals = [mean_residual(trial_folder(root, key)) for key in rows["trial_key"]]
    return rows[[name for name in names if name in rows]].assign(residual=residuals)


def mean_residual(folder: Path) -> float:
    """Return the mean residual of a trial over epochs and layers; nan if it has no diagnostics."""
    rows = read_lines(folder / "diagnostics.jsonl")
    # A layer with an exact covariance has a spectrum and no residual; a layer without inputs has neither.
    values = [row["residual"] or 0.0 for row in rows if row["stable_rank"] is not None]
    return float(np.mean(values)) if values else np.nan


def order(table: Any, optimizer: str, metric: str) -> float:
    """Return Spearman's correlation of residual and metric, mean over seeds with at least three ranks.

    Trials of a seed share initial weights and data. Over all trials, the differences between seeds would hide the
    differences between ranks. The result is nan if no seed has three ranks.
    """
    correlations = []
    for _, trials in table[table["optimizer"] == optimizer].groupby("seed"):
        pair = trials[["residual", metric]].to_numpy(float)
        if len(pair) > 2 and (np.ptp(pair, axis=0) > 0).all():
            correlation: Any = stats.spearmanr(*pair.T)
            correlations.append(correlation.statistic)
    return float(np.mean(correlations)) if correlations else np.nan
