"""What a number of seeds can show: the smallest difference that a test detects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.evidence.metrics import unit
from studies.harness.statistics.paired import smallest_effect
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import COMPLETED, read_config, read_status, trial_folders


@dataclass(frozen=True)
class Detectable:
    """The smallest true difference that one test at 5% finds with 80% power in a table.

    Attributes:
        n: Completed seeds of the arm that has the fewest, of those with two or more.
        sd: Standard deviation over seeds, pooled over arms.
        correlation: Between arms over common seeds, pooled; nan with one arm.
        unpaired: Smallest detectable difference if the arms do not share seeds.
        paired: The same, compared seed by seed.
    """

    n: int
    sd: float
    correlation: float
    unpaired: float
    paired: float


def detectable(values: pd.DataFrame) -> Detectable | None:
    """Return the smallest difference that a table's seeds can show; None if no arm has two completed trials.

    Args:
        values: `arms.by_seed`.
    """
    counts = values.notna().sum()
    table = values.loc[:, counts >= 2]
    if table.empty:
        return None
    n = int(counts[counts >= 2].min())
    covariance = table.cov().to_numpy()
    weights = table.notna().sum().to_numpy() - 1
    variance = float(np.average(np.diag(covariance), weights=weights))
    off_diagonal = covariance[np.triu_indices(len(covariance), 1)]
    shared = float(np.nanmean(off_diagonal)) if np.isfinite(off_diagonal).any() else math.nan
    correlation = float(np.clip(shared / variance, -1, 1)) if variance > 0 else math.nan
    sd = math.sqrt(variance)
    unpaired = smallest_effect(2 * n - 2) * sd * math.sqrt(2 / n)
    paired = smallest_effect(n - 1) * sd * math.sqrt(2 * (1 - correlation) / n)
    return Detectable(n, sd, correlation, unpaired, paired)


def smallest_difference(trials: Sequence[Trial], root: Path, metric: str) -> str:
    """Return a sentence: the smallest difference of two arms that a plan's seeds can show, before anything is trained.

    The spread over seeds is the one that finished trials of the workload have.
    """
    workload, n = trials[0].config.workload, len({trial.config.seed for trial in trials})
    if n < 2:
        return "One seed: no two arms can be told apart."
    effect = smallest_effect(2 * n - 2) * math.sqrt(2 / n)
    start = f"{n} seeds: smallest difference of two arms that one unpaired test at 5% finds with 80% power ="
    spreads = seed_spreads(root, workload, metric)
    if not spreads:
        return f"{start} {effect:.1f} seed SDs; no arm of {workload} has two finished seeds yet."
    show, sd = unit(metric), median(spreads)
    return (
        f"{start} {show.show(effect * sd)} {show.difference}; seed SD = {show.show(sd)}, the median of "
        f"{len(spreads)} finished arms of {workload}."
    )


def seed_spreads(root: Path, workload: str, metric: str) -> list[float]:
    """Return the standard deviation over seeds of each configuration of a workload with two finished trials or more."""
    groups: dict[str, list[float]] = {}
    for folder in trial_folders(root):
        config = TrialConfig.from_dict(read_config(folder)["config"])
        status, lines = read_status(folder), read_lines(folder / "epochs.jsonl")
        if config.workload == workload and status and status["status"] == COMPLETED and metric in lines[-1]["metrics"]:
            groups.setdefault(config.group_key, []).append(lines[-1]["metrics"][metric])
    return [float(np.std(values, ddof=1)) for values in groups.values() if len(values) > 1]
