"""Differences between arms, and the smallest difference that a number of seeds can detect.

The compared pairs are all pairs of arms, each arm with its reference, and each level with the
recipe's value. A pair is compared by a paired t-test of the differences, also for errors. If a
trial of the pair ended without a result, the pair is compared by a rank test, in which this trial
has the worst possible value. The corrected p-values of all pairs are those of `statistics.many`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.harness.design.arms import Arm, Trial, first_trials
from studies.harness.evidence.metrics import higher_is_better
from studies.harness.evidence.power import LARGEST
from studies.harness.statistics.many import all_pairs_p
from studies.harness.statistics.paired import ALPHA, holm, mean_test, moments, rank_p
from studies.harness.statistics.planning import smallest_effect


class Pair(NamedTuple):
    """The difference `arm - base` over common seeds; nan where it cannot be computed.

    Attributes:
        arm: The label of the arm.
        base: The label of the arm with which it is compared.
        n: Number of common seeds: those on which both trials have ended.
        failures: Number of common seeds on which a trial ended without a result.
        wins: Number of common seeds on which the arm is better.
        losses: Number of common seeds on which the base is better.
        difference: Mean difference; nan if there are failures.
        ci_lo: Lower end of its 95% t-interval, which is not corrected for multiple comparisons.
        ci_hi: Upper end of the interval.
        p: Two-sided p-value of the t-test, or of the rank test if there are failures.
        p_adjusted: The p-value after the correction over the pairs of a table; in the table of all
            pairs, that of `statistics.many.all_pairs_p`.
        leader: The label of the better arm; empty if there is none.
    """

    arm: str
    base: str
    n: int
    failures: int
    wins: int
    losses: int
    difference: float
    ci_lo: float
    ci_hi: float
    p: float
    p_adjusted: float
    leader: str

    @property
    def reversed(self) -> Pair:
        """The same pair with the base in the place of the arm."""
        return self._replace(
            arm=self.base,
            base=self.arm,
            wins=self.losses,
            losses=self.wins,
            difference=-self.difference,
            ci_lo=-self.ci_hi,
            ci_hi=-self.ci_lo,
        )

    @property
    def significant(self) -> bool:
        """True if the arms are significantly different after the correction."""
        return self.p_adjusted <= ALPHA


@dataclass(frozen=True)
class Differences:
    """Comparisons of arms with base arms, whose p-values are corrected together.

    Attributes:
        pairs: The pairs that have a common seed, in the order of the plan.
        bases: Labels of the base arms.
        tests: Number of p-values that are corrected together.
    """

    pairs: Sequence[Pair]
    bases: Sequence[str]
    tests: int


def contrasts(values: pd.DataFrame, metric: str, step: float = 0.0) -> pd.DataFrame:
    """Compare every pair of arms of a table of `arms.by_seed` on their common seeds.

    The columns are the attributes of `Pair`, with `other` for the base. `p_adjusted` is corrected
    over all pairs of the table (`statistics.many.all_pairs_p`). The interval and the p-values are
    nan if the arms have fewer than two common seeds.

    Args:
        values: The values by seed; infinite for a trial that ended without a result.
        metric: The metric, which determines the better arm.
        step: The grid of the metric (`metrics.step`).
    """
    first, second = np.triu_indices(values.shape[1], 1)
    sample = values.to_numpy()
    arm, other = sample[:, first].T, sample[:, second].T  # [pairs, seeds]
    common = ~np.isnan(arm) & ~np.isnan(other)
    failures = (common & (np.isinf(arm) | np.isinf(other))).sum(axis=-1)
    higher = higher_is_better(metric)
    wins, losses = (arm > other, arm < other) if higher else (arm < other, arm > other)
    with np.errstate(invalid="ignore"):  # the difference of two infinite values
        test = mean_test(np.where(failures[:, None] > 0, np.nan, arm - other), step)
    p = np.stack([test.p_greater, test.p_less])
    better, worse = p if higher else p[::-1]
    for i in np.flatnonzero(failures):
        better[i], worse[i] = rank_p(arm[i], other[i], higher)
    names = np.array(values.columns, dtype=object)
    leaders = np.where(better > worse, names[second], "")
    return pd.DataFrame(
        {
            "arm": names[first],
            "other": names[second],
            "n": common.sum(axis=-1),
            "failures": failures,
            "wins": wins.sum(axis=-1),
            "losses": losses.sum(axis=-1),
            "difference": test.mean,
            "ci_lo": test.ci_lo,
            "ci_hi": test.ci_hi,
            "p": np.minimum(2 * np.minimum(better, worse), 1.0),
            "p_adjusted": all_pairs_p(sample, step),
            "leader": np.where(better < worse, names[first], leaders),
        }
    )


def beaten(pairs: pd.DataFrame) -> dict[str, list[str]]:
    """Return, for each arm that is significantly better than others, the labels of the others.

    `pairs` is a table of `contrasts`.
    """
    losers: dict[str, list[str]] = {}
    for pair in pairs.loc[pairs["p_adjusted"] <= ALPHA].to_dict("records"):
        if winner := pair["leader"]:
            loser = pair["other"] if winner == pair["arm"] else pair["arm"]
            losers.setdefault(winner, []).append(loser)
    return losers


def bold(pairs: pd.DataFrame) -> set[str]:
    """Return the labels of the arms to print in bold.

    They are significantly better than at least one arm and significantly worse than none.
    """
    losers = beaten(pairs)
    return losers.keys() - set(itertools.chain.from_iterable(losers.values()))


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
    return _between(pairs, bases)


def to_centres(pairs: pd.DataFrame, centres: Mapping[str, str]) -> Differences:
    """Return the difference of each level from the recipe's value."""
    return _between(pairs, centres)


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


def _between(pairs: pd.DataFrame, bases: Mapping[str, str]) -> Differences:
    """Return the pairs of arms and bases that have a common seed.

    Their p-values are corrected by Holm's method over these pairs only.
    """
    known: dict[tuple[str, str], Pair] = {}
    for pair in (Pair(*row) for row in pairs.itertuples(index=False)):
        known |= {(pair.arm, pair.base): pair, (pair.base, pair.arm): pair.reversed}
    rows = [known[pair] for pair in bases.items() if known[pair].n]
    corrected = holm(np.array([row.p for row in rows]))
    rows = [row._replace(p_adjusted=float(p)) for row, p in zip(rows, corrected, strict=True)]
    tests = sum(not math.isnan(row.p) for row in rows)
    return Differences(rows, list(dict.fromkeys(row.base for row in rows)), tests)


# ---------------------------------------------------------------------- detectable differences


@dataclass(frozen=True)
class Detectable:
    """The smallest true difference of two arms that a table detects with 80% power.

    Attributes:
        n: The smallest number of common seeds of the pairs.
        pairs: The number of pairs of arms over which p-values are corrected.
        sd: Standard deviation of the paired differences, pooled over pairs, with the lower limit of
            the test.
        effect: Smallest detectable difference in units of `sd`, of a paired t-test at the level
            5% / `pairs`.
    """

    n: int
    pairs: int
    sd: float
    effect: float

    @property
    def difference(self) -> float:
        """The smallest detectable difference in units of the metric."""
        return self.effect * self.sd

    @property
    def conclusive(self) -> bool:
        """True if the seeds suffice to detect an effect of `LARGEST`."""
        return self.effect <= LARGEST


def detectable(values: pd.DataFrame, step: float = 0.0) -> Detectable | None:
    """Return the smallest difference that the seeds in a table of `arms.by_seed` can detect.

    The standard deviation and the number of seeds are those of the pairs of arms without failures
    and with at least two common seeds. Returns None if there are none.

    Args:
        values: The values by seed.
        step: The grid of the metric (`metrics.step`).
    """
    stable = values.loc[:, ~np.isinf(values).any()].to_numpy()
    first, second = np.triu_indices(stable.shape[1], 1)
    n, _, sd = moments((stable[:, first] - stable[:, second]).T)
    if not (n >= 2).any():
        return None
    pooled = math.sqrt(np.average(sd[n >= 2] ** 2, weights=n[n >= 2] - 1))
    seeds, pairs = int(n[n >= 2].min()), math.comb(values.shape[1], 2)
    return Detectable(seeds, pairs, max(pooled, step / math.sqrt(6)), smallest_effect(seeds, pairs))
