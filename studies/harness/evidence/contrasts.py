"""Differences between arms: every pair, every arm against a reference, every level against the recipe's value.

Also the smallest difference that a number of seeds can show.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.harness.design.arms import Arm, Trial, first_trials
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.evidence.status import DIVERGED, OOM
from studies.harness.statistics.intervals import half_width
from studies.harness.statistics.paired import holm, moments, paired_p, smallest_effect, unbeaten
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import COMPLETED, read_config, read_status, trial_folders


class Pair(NamedTuple):
    """Arm - base over their common seeds; nan if nothing can be computed."""

    arm: str
    base: str
    n: int
    difference: float
    ci_lo: float
    ci_hi: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Differences:
    """Arms compared with a base arm each.

    Attributes:
        pairs: Those with a common seed, in the order of the plan.
        bases: The base arms.
        tests: Number of p-values that are corrected together.
    """

    pairs: Sequence[Pair]
    bases: Sequence[str]
    tests: int


def contrasts(values: pd.DataFrame) -> pd.DataFrame:
    """Compare every pair of arms of an `arms.by_seed` on their common seeds.

    Columns `arm other n difference ci_lo ci_hi p p_holm`; difference = arm - other, with its 95% t-interval, and p_holm
    corrected over all pairs of the table. nan if fewer than two seeds are common.
    """
    first, second = np.triu_indices(values.shape[1], 1)
    sample = values.to_numpy()
    differences = (sample[:, first] - sample[:, second]).T
    n, mean, sd = moments(differences)
    half, p = half_width(n, sd), paired_p(differences)
    names = np.array(values.columns, dtype=object)
    pairs = {"arm": names[first], "other": names[second], "n": n, "difference": mean}
    return pd.DataFrame(
        pairs | {"ci_lo": mean - half, "ci_hi": mean + half, "p": p, "p_holm": holm(p)}
    )


def bold(frame: pd.DataFrame, values: pd.DataFrame, metric: str) -> set[str]:
    """Return the labels of the arms that are bold in the table; an arm with a diverged or oom trial never is."""
    lost = set(frame.loc[frame["status"].isin([DIVERGED, OOM]), "arm"])
    chosen = unbeaten(values.to_numpy(), higher_is_better(metric))
    return {arm for arm, wins in zip(values.columns, chosen, strict=True) if wins} - lost


def to_references(
    pairs: pd.DataFrame,
    trials: Sequence[Trial],
    references: Sequence[str],
    centres: Mapping[str, str],
) -> Differences:
    """Return every arm's difference to its reference, or to the first arm if there is nothing else to compare with."""
    arms = [trial.arm for trial in first_trials(trials).values()]
    bases = reference_of(arms, references)
    if not bases and not centres:
        bases = {arm.label: arms[0].label for arm in arms[1:]}
    tests = sum(not math.isnan(p) for p in pairs["p"])
    return Differences(_between(pairs, bases), list(dict.fromkeys(bases.values())), tests)


def to_centres(pairs: pd.DataFrame, centres: Mapping[str, str]) -> Differences:
    """Return every level's difference to the recipe's value, corrected over these differences alone."""
    rows = _between(pairs, centres)
    corrected = holm(np.array([row.p for row in rows]))
    rows = [row._replace(p_holm=float(p)) for row, p in zip(rows, corrected, strict=True)]
    tests = sum(not math.isnan(row.p) for row in rows)
    return Differences(rows, list(dict.fromkeys(row.base for row in rows)), tests)


def reference_of(arms: Sequence[Arm], references: Sequence[str]) -> dict[str, str]:
    """Return each arm's reference: an arm of the first planned one of `references`, at the same levels if possible."""
    name = next((name for name in references if any(arm.optimizer == name for arm in arms)), None)
    bases: dict[str, str] = {}
    for arm, base in itertools.product(arms, [arm for arm in arms if arm.optimizer == name]):
        if all(
            base.overrides[factor] == arm.overrides[factor]
            for factor in {*base.factors} & {*arm.factors}
        ):
            bases.setdefault(arm.label, base.label)
    return {arm: base for arm, base in bases.items() if arm != base}


def centre_of(trials: Sequence[Trial]) -> dict[str, str]:
    """Return each level's centre: the arm of the same optimizer and factors that has the recipe's values."""
    arms = {label: trial for label, trial in first_trials(trials).items() if trial.arm.factors}
    centres = {_family(trial.arm): label for label, trial in arms.items() if trial.is_centre}
    bases = {label: centres.get(_family(trial.arm), label) for label, trial in arms.items()}
    return {label: centre for label, centre in bases.items() if label != centre}


def _family(arm: Arm) -> tuple[Any, ...]:
    return arm.optimizer, arm.as_released, arm.factors


def _between(pairs: pd.DataFrame, bases: Mapping[str, str]) -> list[Pair]:
    """Return the pairs of arms and bases that have a common seed."""
    known = {}
    for pair in (Pair(*row) for row in pairs.itertuples(index=False)):
        arm, base, n, difference, lo, hi, *p = pair
        known |= {(arm, base): pair, (base, arm): Pair(base, arm, n, -difference, -hi, -lo, *p)}
    rows = [known[pair] for pair in bases.items()]
    return [row for row in rows if not math.isnan(row.difference)]


# ---------------------------------------------------------------------- what the seeds can show


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
    """Return the smallest difference that an `arms.by_seed` can show; None if no arm has two completed trials."""
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
        if (
            config.workload == workload
            and status
            and status["status"] == COMPLETED
            and metric in lines[-1]["metrics"]
        ):
            groups.setdefault(config.group_key, []).append(lines[-1]["metrics"][metric])
    return [float(np.std(values, ddof=1)) for values in groups.values() if len(values) > 1]
