"""Differences between arms: every pair, every arm against a reference, every level against the recipe's value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.harness.design.arms import Arm, Trial, first_trials
from studies.harness.evidence.metrics import higher_is_better
from studies.harness.evidence.status import DIVERGED, OOM
from studies.harness.statistics.intervals import half_width
from studies.harness.statistics.paired import holm, moments, paired_p, survivors


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
    """Compare every pair of arms on their common seeds.

    Args:
        values: `arms.by_seed`.

    Returns:
        Columns `arm other n difference ci_lo ci_hi p p_holm`; difference = arm - other, with its 95% t-interval, and
        p_holm corrected over all pairs of the table. nan if fewer than two seeds are common.
    """
    first, second = np.triu_indices(values.shape[1], 1)
    sample = values.to_numpy()
    differences = (sample[:, first] - sample[:, second]).T
    n, mean, sd = moments(differences)
    half, p = half_width(n, sd), paired_p(differences)
    names = np.array(values.columns, dtype=object)
    return pd.DataFrame(
        {
            "arm": names[first],
            "other": names[second],
            "n": n,
            "difference": mean,
            "ci_lo": mean - half,
            "ci_hi": mean + half,
            "p": p,
            "p_holm": holm(p),
        }
    )


def bold(frame: pd.DataFrame, values: pd.DataFrame, metric: str) -> set[str]:
    """Return the labels of the arms that are bold in the table; an arm with a diverged or oom trial never is.

    Args:
        frame: `ledger.frame(..., per="trial")`.
        values: Its `arms.by_seed`.
        metric: What is compared.
    """
    lost = set(frame.loc[frame["status"].isin([DIVERGED, OOM]), "arm"])
    chosen = survivors(values.to_numpy(), higher_is_better(metric))
    return {arm for arm, wins in zip(values.columns, chosen, strict=True) if wins} - lost


def to_references(
    pairs: pd.DataFrame, trials: Sequence[Trial], references: Sequence[str], centres: Mapping[str, str]
) -> Differences:
    """Return every arm's difference to its reference, or to the first arm if there is nothing else to compare with.

    Args:
        pairs: `contrasts`.
        trials: The plan.
        references: Optimizers, the preferred one first.
        centres: `centre_of` the plan.
    """
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
    planned = {arm.optimizer for arm in arms}
    name = next((name for name in references if name in planned), None)
    bases: dict[str, str] = {}
    for arm in arms:
        for base in (base for base in arms if base.optimizer == name):
            shared = set(base.factors) & set(arm.factors)
            if all(base.overrides[factor] == arm.overrides[factor] for factor in shared):
                bases.setdefault(arm.label, base.label)
    return {arm: base for arm, base in bases.items() if arm != base}


def centre_of(trials: Sequence[Trial]) -> dict[str, str]:
    """Return each level's centre: the arm of the same optimizer and factors that has the recipe's values."""
    arms = {label: trial for label, trial in first_trials(trials).items() if trial.arm.factors}
    centres = {_family(trial.arm): label for label, trial in arms.items() if trial.is_centre}
    bases = {label: centres.get(_family(trial.arm), label) for label, trial in arms.items()}
    return {label: centre for label, centre in bases.items() if label != centre}


def _family(arm: Arm) -> tuple[Any, ...]:
    return arm.optimizer, arm.faithful, arm.factors


def _between(pairs: pd.DataFrame, bases: Mapping[str, str]) -> list[Pair]:
    """Return the pairs of arms and bases that have a common seed."""
    known = {(pair.arm, pair.base): pair for pair in (Pair(*row) for row in pairs.itertuples(index=False))}
    rows = []
    for arm, base in bases.items():
        row = known.get((arm, base))
        if row is None:
            turned = known[base, arm]
            row = Pair(arm, base, turned.n, -turned.difference, -turned.ci_hi, -turned.ci_lo, *turned[-2:])
        rows.append(row)
    return [row for row in rows if not math.isnan(row.difference)]
