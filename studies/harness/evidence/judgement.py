"""The decision whether a candidate is better than a baseline, made again after each pair of seeds.

A decision is a function of the results in the order of the seeds. It is the first one that the
error of the judgement permits, so later seeds, or a repetition of the command, do not change it.
`statistics.sequential` has the e-processes, which stay valid although the decision is tried after
each seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from studies.harness.evidence.scale import Scale
from studies.harness.statistics.paired import ALPHA
from studies.harness.statistics.sequential import (
    LARGEST,
    Evidence,
    confidence_sequence,
    equivalence_p,
    evidence,
    first_below,
    first_sign,
    repeated,
    repeated_equivalence_p,
    share_of_error,
)

Decision = Literal["better", "worse", "equal", "inconclusive"]
Combination = Literal["average", "product"]
BETTER, WORSE, EQUAL, INCONCLUSIVE = "better", "worse", "equal", "inconclusive"


class Effect(NamedTuple):
    """The gains of a candidate on one workload, up to the decision.

    Attributes:
        scale: The metric and the workload.
        seeds: The seeds.
        gains: [seeds] The gains; infinite where exactly one trial has no result.
        candidate: The mean value of the candidate over the seeds with a result; nan without one.
        baseline: The mean value of the baseline.
        low: [seeds] The lower end of the confidence sequence of the mean gain, with the error
            `Verdict.level`.
        high: [seeds] The upper end.
        first_sign: The index of the first gain that is judged by its sign.
        values: [seeds, 2] The values of the candidate and of the baseline; infinite without a
            result.
    """

    scale: Scale
    seeds: Sequence[int]
    gains: np.ndarray
    candidate: float
    baseline: float
    low: np.ndarray
    high: np.ndarray
    first_sign: int
    values: np.ndarray

    @property
    def complete(self) -> np.ndarray:
        """[seeds] True if both sides have a result."""
        return np.all(np.isfinite(self.values), axis=1)

    @property
    def mean(self) -> float:
        """The mean gain over the seeds with a result of both sides; nan without one."""
        return _mean(self.gains[self.complete])

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the confidence sequence after the last seed."""
        return (
            (float(self.low[-1]), float(self.high[-1])) if len(self.low) else (-math.inf, math.inf)
        )

    @property
    def losses(self) -> int:
        """The number of seeds that the candidate lost because its trial has no result."""
        return int((self.gains == -math.inf).sum())


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision on one candidate.

    Attributes:
        candidate: The label of the candidate.
        baseline: The label of the baseline.
        decision: `better`, `worse`, `equal` (within the margin) or `inconclusive`.
        attempt: The number of this attempt against the baseline, from 1.
        level: The largest p-value of a decision, after the corrections for earlier attempts and for
            several candidates.
        e_values: [n] The two-sided e-process over the pairs, combined over workloads.
        effects: The gains on each workload.
        expected: The number of pairs after which a decision is expected; None if it is more than
            1000 or unknown, or if there is a decision.
    """

    candidate: str
    baseline: str
    decision: Decision
    attempt: int
    level: float
    e_values: np.ndarray
    effects: Sequence[Effect]
    expected: int | None = None

    @property
    def pairs(self) -> int:
        """The number of seeds that were compared on each workload."""
        return len(self.e_values)

    @property
    def e(self) -> float:
        """The largest e-value; 1 without a seed."""
        return float(self.e_values.max(initial=1.0))

    @property
    def threshold(self) -> float:
        """The e-value that decides."""
        return 1 / self.level


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of a judgement, which are fixed before its first result is read.

    Attributes:
        attempts_before: The number of earlier attempts against the baseline.
        combine: The combination of the e-values of several workloads: their `average` is valid for
            any dependence between the workloads, their `product` if the gains are independent.
    """

    attempts_before: int = 0
    combine: Combination = "average"


def judge(
    tables: Mapping[Scale, pd.DataFrame], candidates: Sequence[str], baseline: str, rules: Rules
) -> list[Verdict]:
    """Return a verdict on each candidate.

    After each seed, the candidates without a decision are tested together. Without a margin, the
    error is divided among them by Holm's method, because only a candidate without a difference can
    be called different falsely. With a margin, any candidate can be called equal falsely, so the
    error is divided by the number of all candidates (Bonferroni's method).

    Args:
        tables: The values on each workload: a row for each seed in the order of the judgement, a
            column for each side. nan is a trial that has not ended, an infinite value a trial that
            ended without a result.
        candidates: The labels of the candidates.
        baseline: The label of the baseline.
        rules: The rules.
    """
    error = ALPHA * share_of_error(rules.attempts_before, len(candidates))
    holm = not any(scale.margin for scale in tables)
    tracks = {name: _Track.read(tables, name, baseline, rules.combine) for name in candidates}
    decided: dict[str, tuple[Decision, int, float]] = {}
    level = error / len(candidates)
    for n in range(1, 1 + max(track.pairs for track in tracks.values())):
        open_names = [name for name in candidates if name not in decided]
        if not open_names or any(tracks[name].pairs < n for name in open_names):
            break
        for name in sorted(open_names, key=lambda name: tracks[name].evidence.p[n - 1]):
            decision = tracks[name].decision(n, level)
            if decision != INCONCLUSIVE:
                decided[name] = (decision, n, level)
                level = error / max(1, len(candidates) - holm * len(decided))
    pending = (INCONCLUSIVE, None, level)
    return [
        tracks[name].verdict(*decided.get(name, pending), rules.attempts_before + place)
        for place, name in enumerate(candidates, 1)
    ]


@dataclass(frozen=True, kw_only=True)
class _Track:
    """The e-processes of a candidate over the pairs that have ended on all workloads.

    Attributes:
        names: The labels of the candidate and of the baseline.
        tables: The values of both on each workload, for these pairs.
        evidence: The e-processes of the gains, combined over the workloads.
        equality: [pairs] The p-values of equality on all workloads.
        combine: The combination of the e-values.
    """

    names: tuple[str, str]
    tables: Mapping[Scale, pd.DataFrame]
    evidence: Evidence
    equality: np.ndarray
    combine: Combination

    @classmethod
    def read(
        cls,
        tables: Mapping[Scale, pd.DataFrame],
        candidate: str,
        baseline: str,
        combine: Combination,
    ) -> _Track:
        """Return the track of a candidate."""
        names = (candidate, baseline)
        ended = [~np.isnan(_values(table, names)).any(axis=1) for table in tables.values()]
        pairs = int(np.logical_and.accumulate(np.all(ended, axis=0)).sum())
        cut = {scale: table[[*names]].iloc[:pairs] for scale, table in tables.items()}
        gains = {scale: scale.gains(*_values(table, names).T) for scale, table in cut.items()}
        parts = [evidence(values, scale.step) for scale, values in gains.items()]
        equal = [equivalence_p(values, scale.margin, scale.step) for scale, values in gains.items()]
        joined, equality = _combined(parts, combine), np.max(equal, axis=0)
        return cls(names=names, tables=cut, evidence=joined, equality=equality, combine=combine)

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return len(self.equality)

    def decision(self, n: int, level: float) -> Decision:
        """Return the decision after the first n pairs, if the largest p-value is the level."""
        if self.evidence.p[n - 1] > level:
            return EQUAL if self.equality[n - 1] <= level else INCONCLUSIVE
        place = int(self.evidence.two_sided[:n].argmax())
        return BETTER if self.evidence.greater[place] > self.evidence.less[place] else WORSE

    def verdict(self, decision: Decision, pairs: int | None, level: float, attempt: int) -> Verdict:
        """Return the verdict after a number of pairs; after all of them if None."""
        pairs = self.pairs if pairs is None else pairs
        effects = [
            self._effect(scale, table.iloc[:pairs], level) for scale, table in self.tables.items()
        ]
        return Verdict(
            candidate=self.names[0],
            baseline=self.names[1],
            decision=decision,
            attempt=attempt,
            level=level,
            e_values=self.evidence.two_sided[:pairs],
            effects=effects,
            expected=(
                _expected(effects, level, self.combine) if decision == INCONCLUSIVE else None
            ),
        )

    def _effect(self, scale: Scale, table: pd.DataFrame, level: float) -> Effect:
        candidate, baseline = _values(table, self.names).T
        gains = scale.gains(candidate, baseline)
        low, high = confidence_sequence(gains, level, scale.step)
        return Effect(
            scale=scale,
            seeds=[int(seed) for seed in table.index],
            gains=gains,
            candidate=_mean(candidate),
            baseline=_mean(baseline),
            low=low,
            high=high,
            first_sign=first_sign(gains, scale.step),
            values=np.stack([candidate, baseline], axis=1),
        )


def _values(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return the columns of a table: [seeds, names]."""
    return np.asarray(table[[*names]], dtype=float)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the finite values; nan without one."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _combined(parts: Sequence[Evidence], combine: Combination) -> Evidence:
    """Return the e-processes of several workloads as one, at most `LARGEST`."""
    join = np.mean if combine == "average" else np.prod
    with np.errstate(over="ignore"):
        sides = [join(side, axis=0) for side in zip(*parts, strict=True)]
    return Evidence(*(np.minimum(side, LARGEST) for side in sides))


def _expected(effects: Sequence[Effect], level: float, combine: Combination) -> int | None:
    """Return the number of pairs after which a decision is expected, as `seeds_expected` does."""
    if any(len(effect.gains) < 2 for effect in effects):
        return None
    parts = [repeated(effect.gains, effect.scale.step) for effect in effects]
    equal = [
        repeated_equivalence_p(effect.gains, effect.scale.margin, effect.scale.step)
        for effect in effects
    ]
    return first_below(np.minimum(_combined(parts, combine).p, np.max(equal, axis=0)), level)
