"""The losses and approximation errors of trials, to test Remark 5.6 of the NysAct paper.

The remark states that a smaller error of the Nystrom approximation gives faster convergence.
"""

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
    """Return the losses and the `residual` of each completed trial with a rank.

    `frame` is the table of `ledger.frame`. The residual is nan for a trial without diagnostics.
    """
    ranked = frame["rank"].notna() if "rank" in frame else False
    rows = frame[frame["optimizer"].isin(optimizers) & ranked & (frame["status"] == COMPLETED)]
    names = ["arm", "optimizer", "rank", "seed", "trial_key", *METRICS]
    residuals = [mean_residual(trial_folder(root, key)) for key in rows["trial_key"]]
    return rows[[name for name in names if name in rows]].assign(residual=residuals)


def mean_residual(folder: Path) -> float:
    """Return the mean residual of a trial over epochs and layers, or nan without diagnostics."""
    rows = read_lines(folder / "diagnostics.jsonl")
    # A layer with an exact covariance has a stable rank and no residual: its residual counts as 0.
    # A layer that received no inputs has no stable rank, and is left out.
    values = [row["residual"] or 0.0 for row in rows if row["stable_rank"] is not None]
    return float(np.mean(values)) if values else np.nan


def mean_correlation(table: Any, optimizer: str, metric: str) -> float:
    """Return the mean over seeds of Spearman's correlation between the residual and a metric.

    The trials of a seed share the initial weights and the order of the data. A correlation over all
    trials would mix the differences between seeds with those between ranks. Seeds with fewer than
    three ranks, or with only one distinct residual or value of the metric, are left out. The result
    is nan if no seed remains.
    """
    correlations = []
    for _, trials in table[table["optimizer"] == optimizer].groupby("seed"):
        pair = trials[["residual", metric]].to_numpy(float)
        if len(pair) > 2 and (np.ptp(pair, axis=0) > 0).all():
            correlation: Any = stats.spearmanr(*pair.T)
            correlations.append(correlation.statistic)
    return float(np.mean(correlations)) if correlations else np.nan
