"""Differences between arms, and the smallest difference that a number of seeds can detect.

The compared pairs are all pairs of arms, each arm with its reference, and each level with the
recipe's value.
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
from studies.harness.evidence.metrics import count, higher_is_better, unit
from studies.harness.evidence.status import DIVERGED, OOM
from studies.harness.statistics.intervals import half_width
from studies.harness.statistics.paired import holm, moments, paired_p, smallest_effect, unbeaten
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import COMPLETED, read_config, read_status, trial_folders


class Pair(NamedTuple):
    """The difference `arm - base` over common seeds; nan where it cannot be computed."""

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
    """Comparisons of arms with base arms.

    Attributes:
        pairs: The pairs that have a common seed, in the order of the plan.
        bases: Labels of the base arms.
        tests: Number of p-values that are corrected together.
    """

    pairs: Sequence[Pair]
    bases: Sequence[str]
    tests: int


def contrasts(values: pd.DataFrame) -> pd.DataFrame:
    """Compare every pair of arms of a table of `arms.by_seed` on their common seeds.

    Columns: `arm other n difference ci_lo ci_hi p p_holm`. The difference is arm - other, with its
    95% t-interval; `p_holm` is corrected over all pairs of the table. The interval and the p-values
    are nan if the arms have fewer than two common seeds. The p-values are also nan if the
    difference is equal for all seeds.
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
    """Return the labels of the arms to print in bold: those for which `unbeaten` returns True.

    An arm with a trial that diverged or ran out of memory is never bold.
    """
    lost = set(frame.loc[frame["status"].isin([DIVERGED, OOM]), "arm"])
    best = unbeaten(values.to_numpy(), higher_is_better(metric))
    return {arm for arm, is_best in zip(values.columns, best, strict=True) if is_best} - lost


def to_references(
    pairs: pd.DataFrame,
    trials: Sequence[Trial],
    references: Sequence[str],
    centres: Mapping[str, str],
) -> Differences:
    """Return the difference of each arm from its reference.

    Without references and centres, return the differences from the first arm.
    """
    arms = [trial.arm for trial in first_trials(trials).values()]
    bases = reference_of(arms, references)
    if not bases and not centres:
        bases = {arm.label: arms[0].label for arm in arms[1:]}
    tests = sum(not math.isnan(p) for p in pairs["p"])
    return Differences(_between(pairs, bases), list(dict.fromkeys(bases.values())), tests)


def to_centres(pairs: pd.DataFrame, centres: Mapping[str, str]) -> Differences:
    """Return the difference of each level from the recipe's value.

    The p-values are corrected over these differences only.
    """
    rows = _between(pairs, centres)
    corrected = holm(np.array([row.p for row in rows]))
    rows = [row._replace(p_holm=float(p)) for row, p in zip(rows, corrected, strict=True)]
    tests = sum(not math.isnan(row.p) for row in rows)
    return Differences(rows, list(dict.fromkeys(row.base for row in rows)), tests)


def reference_of(arms: Sequence[Arm], references: Sequence[str]) -> dict[str, str]:
    """Return the label of each arm's reference.

    All references belong to one optimizer: the first in `references` that is in the plan. The
    reference of an arm is the first arm of this optimizer that has the same levels of the factors
    that both arms vary.
    """
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
    """Return the label of each arm's centre.

    The centre is the arm of the same optimizer, variant and factors that has the recipe's values.
    """
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


# ---------------------------------------------------------------------- detectable differences


@dataclass(frozen=True)
class Detectable:
    """The smallest true difference that one t-test at the 5% level detects with 80% power.

    Attributes:
        n: The smallest number of completed seeds of an arm, among the arms with at least two.
        sd: Standard deviation over seeds, pooled over arms.
        correlation: Correlation between arms over common seeds, pooled; nan with one arm.
        unpaired: Smallest detectable difference of an unpaired test.
        paired: Smallest detectable difference of a test paired by seed.
    """

    n: int
    sd: float
    correlation: float
    unpaired: float
    paired: float


def detectable(values: pd.DataFrame) -> Detectable | None:
    """Return the smallest difference that the seeds in a table of `arms.by_seed` can detect.

    Returns None if no arm has two completed trials.
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
    """Return a text about the smallest difference of two arms that a plan's seeds can detect.

    The standard deviation over seeds is taken from completed trials of the workload.
    """
    workload, n = trials[0].config.workload, len({trial.config.seed for trial in trials})
    if n < 2:
        return "With one seed, differences between arms cannot be tested."
    effect = smallest_effect(2 * n - 2) * math.sqrt(2 / n)
    spreads = seed_spreads(root, workload, metric)
    show = unit(metric)
    if spreads:
        sd = median(spreads)
        size = f"{show.show(effect * sd)} {show.difference}"
        source = (
            f"The standard deviation over seeds is {show.show(sd)}, the median of "
            f"{count(len(spreads), 'configuration')} of {workload} with two or more completed seeds."
        )
    else:
        size = f"{effect:.1f} standard deviations over seeds"
        source = (
            "The standard deviation is not known, because no configuration of "
            f"{workload} has two completed seeds yet."
        )
    return (
        f"With {n} seeds, one unpaired t-test of two arms at the 5% level has 80% power to detect "
        f"a difference of {size}. {source}"
    )


def seed_spreads(root: Path, workload: str, metric: str) -> list[float]:
    """Return the standard deviation over seeds of each configuration of a workload.

    Configurations with fewer than two completed trials are omitted.
    """
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
