"""Decisions on claims: supported, contradicted or inconclusive.

Two one-sided tests decide a claim: one for the claim and one against it. The p-value is twice the
smaller of the two, corrected by Holm's method over the claims of the study that can be tested. A
claim about several pairs of arms is supported if every pair supports it, and contradicted if one
pair, with a p-value multiplied by the number of pairs, contradicts it.

Each decision is made twice. The fixed-sample decision (paired t-tests) is valid if the number of
seeds was chosen before the results were seen. The anytime-valid decision (e-processes) is also
valid if seeds were added after looking at the results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from precond.counts import counted
from studies.harness.design import matching
from studies.harness.design.claims import Claim
from studies.harness.evidence.gains import (
    Table,
    effects_of,
    margin_words,
    margins_of,
    mean_margin,
    operands,
    subtract,
    values_of,
)
from studies.harness.evidence.metrics import join_words, words
from studies.harness.statistics.paired import ALPHA, holm, mean_test, rank_p
from studies.harness.statistics.planning import seeds_needed
from studies.harness.statistics.sequential import anytime_p

SUPPORTED, CONTRADICTED = "supported", "contradicted"
INCONCLUSIVE, NOT_TESTED = "inconclusive", "not tested"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision on a claim.

    The effect of an arm is its gain: the difference from the base, positive if the arm is better.
    For errors, it is the ratio of the arm's error to the base's (see `gains`). The pair that
    decides is the one that supports the claim least or, if the claim is contradicted, the one that
    contradicts it most.

    Attributes:
        claim: The claim.
        text: The claim as a sentence with its margin, without a full stop.
        metric: The metric of the values; empty if the claim was not tested.
        verdict: `SUPPORTED`, `CONTRADICTED` or `INCONCLUSIVE`, at the 5% level after Holm's
            correction, or `NOT_TESTED`.
        arm: The arm of the pair that decides; a `Change` as text.
        base: The base of this pair.
        pairs: Number of pairs that the claim compares.
        n: Number of common seeds of the pair that decides.
        is_ratio: True if the effect is a ratio. Its mean over seeds is the geometric mean.
        estimate: The mean effect of this pair; nan if one of its trials failed.
        ci_lo: Lower end of the 95% t-interval of the mean effect; it is not corrected.
        ci_hi: Upper end of the interval.
        margin: The margin of a gain in the unit of the metric, or that of a ratio as a share (0.05
            is 5%); 0 for a claim without a margin.
        p: The p-value after Holm's correction.
        e: The e-value of the test with the smaller anytime-valid p-value.
        anytime_verdict: The verdict that stays valid if seeds are added after looking.
        anytime_p: The anytime-valid p-value after Holm's correction.
        seeds: The number of seeds that would decide the claim with 80% power if the mean and the SD
            of the gains did not change; None if it is unknown or if the claim is decided.
        reason: Why the claim was not tested, or why a pair has no estimate; otherwise empty.
        caveat: Sentences about the arms that a reader of the verdict must know; usually empty.
    """

    claim: Claim
    text: str
    metric: str = ""
    verdict: str = NOT_TESTED
    arm: str = ""
    base: str = ""
    pairs: int = 0
    n: int = 0
    is_ratio: bool = False
    estimate: float = math.nan
    ci_lo: float = math.nan
    ci_hi: float = math.nan
    margin: float = math.nan
    p: float = math.nan
    e: float = math.nan
    anytime_verdict: str = NOT_TESTED
    anytime_p: float = math.nan
    seeds: int | None = None
    reason: str = ""
    caveat: str = ""


def decide(
    claims: Sequence[Claim],
    values: pd.DataFrame,
    metric: str,
    step: float = 0.0,
    *,
    workload: str = "",
) -> list[Decision]:
    """Return a decision on each claim from one table of values (see `Table`).

    If a workload is given, claims about other workloads are not tested.
    """
    table = Table(values, metric, step)
    return decide_from(claims, {claim.metric: table for claim in claims}, workload)


def decide_from(
    claims: Sequence[Claim], tables: Mapping[str, Table], workload: str = ""
) -> list[Decision]:
    """Return a decision on each claim; `tables` has the values by `Claim.metric`."""
    tests = [_test(claim, tables.get(claim.metric), workload) for claim in claims]
    corrected = iter(_corrected([test for test in tests if isinstance(test, ClaimTest)]))
    return [next(corrected) if isinstance(test, ClaimTest) else test for test in tests]


def _test(claim: Claim, table: Table | None, workload: str) -> ClaimTest | Decision:
    """Return the tests of a claim, or the decision that it is not tested."""
    text = statement(claim, table)
    if workload and not matching.is_on(claim, workload):
        reason = f"it is a claim about {join_words(claim.on)}"
    elif table is None:
        reason = f"{workload or 'the workload'} has no metric {claim.metric}"
    elif not (reason := matching.unmatched(claim, list(table.values.columns), "this plan")):
        test = ClaimTest(claim, table)
        if test.n.max() > 1:
            return test
        reason = "fewer than two common seeds have a result"
    return Decision(claim=claim, text=text, reason=reason)


def statement(claim: Claim, table: Table | None) -> str:
    """Return a claim as a sentence with its margin, and with the metric if the claim names one."""
    margin = margin_words(claim, table) if table else ""
    metric = f", for the {words(claim.metric)}" if claim.metric else ""
    return claim.statement(margin) + metric


# ---------------------------------------------------------------------- the tests of one claim


class ClaimTest:
    """The tests of a claim before the correction over the claims.

    Attributes:
        claim: The claim.
        table: The values of the arms of these pairs.
        pairs: The pairs of arms.
        n: The number of common seeds `[pairs]`.
        gains: The t-tests of the gains `[pairs]`.
        margins: The margin of each pair and seed `[pairs, seeds]`.
        failed: `[pairs]` True for each pair with a failed trial on a common seed.
        tests: The number of one-sided tests: one for each pair and each limit of the claim.
        effects: Mean / SD of the distance from the limit that the claim forbids `[tests]`;
            positive values support the claim.
        against: The p-values of the tests against the claim `[tests]`.
        support: The p-values of the tests for the claim `[tests]`; 1 without two common seeds.
        fixed: The p-values of the claim and of its opposite.
        anytime: The anytime-valid p-values of the claim and of its opposite.
        e: The e-values of the claim and of its opposite.
    """

    def __init__(self, claim: Claim, table: Table):
        self.claim = claim
        self.pairs = matching.pairs(claim, list(table.values.columns))
        self.table = table = table.only(side for pair in self.pairs for side in pair)
        arm = np.array([values_of(table, arm) for arm, _ in self.pairs])
        base = np.array([values_of(table, base) for _, base in self.pairs])
        self.margins = np.array([margins_of(claim, table, base) for _, base in self.pairs])
        gains = subtract(arm, base)
        failed = (np.isinf(arm) | np.isinf(base)) & ~np.isnan(gains)
        self.failed: np.ndarray = np.any(failed, axis=-1)
        self.gains = mean_test(np.where(self.failed[:, None], np.nan, gains), table.step)
        self.n: np.ndarray = np.sum(~np.isnan(gains), axis=-1)
        self._test(*operands(claim, arm, base, self.margins))

    def _test(self, first: np.ndarray, second: np.ndarray) -> None:
        """Test for each row if the first operand is greater than the second: [tests, seeds]."""
        distance = subtract(first, second)
        self.tests = len(distance)
        failed = np.resize(self.failed, self.tests)
        test = mean_test(np.where(failed[:, None], np.nan, distance), self.table.step)
        support, against = test.p_greater.copy(), test.p_less.copy()
        for row in np.flatnonzero(failed):
            support[row], against[row] = rank_p(first[row], second[row], higher=True)
        self.support, self.against = np.nan_to_num(support, nan=1), np.nan_to_num(against, nan=1)
        self.effects = effects_of(test)
        self.fixed = self.support.max(), min(1.0, self.tests * self.against.min())
        looks = np.array([anytime_p(row, self.table.step) for row in distance])
        looks = np.where(np.isnan(looks), 1.0, looks)  # 1 is no evidence
        self.anytime = looks[:, 0].max(), min(1.0, self.tests * looks[:, 1].min())
        self.e = looks[:, 2].min(), looks[:, 3].max() / self.tests

    def decision(self, p: float, anytime_p: float, family: int) -> Decision:
        """Return the decision.

        Args:
            p: The corrected p-value.
            anytime_p: The corrected anytime-valid p-value.
            family: The number of claims that are corrected together.
        """
        verdict = _verdict(self.fixed, p)
        test = self._deciding(verdict)
        pair = test % len(self.pairs)
        arm, base = map(str, self.pairs[pair])
        gain = [float(part[pair]) for part in (self.gains.mean, self.gains.ci_lo, self.gains.ci_hi)]
        margin = mean_margin(self.margins[pair])
        if self.table.has_ratios:
            gain = [math.exp(-gain[i]) for i in (0, 2, 1)]
            margin = math.expm1(margin)
        return Decision(
            claim=self.claim,
            text=statement(self.claim, self.table),
            metric=self.table.metric,
            verdict=verdict,
            arm=arm,
            base=base,
            pairs=len(self.pairs),
            n=int(self.n[pair]),
            is_ratio=self.table.has_ratios,
            **dict(zip(("estimate", "ci_lo", "ci_hi"), gain, strict=True)),
            margin=margin,
            p=p,
            e=float(self.e[0] if self.anytime[0] <= self.anytime[1] else self.e[1]),
            anytime_verdict=_verdict(self.anytime, anytime_p),
            anytime_p=anytime_p,
            seeds=self._seeds(test, family) if verdict == INCONCLUSIVE else None,
            reason=self._reason(pair),
        )

    def _deciding(self, verdict: str) -> int:
        """Return the index of the test that decides; tests without two seeds are left out."""
        if verdict == CONTRADICTED:
            return int(np.argmin(self.against))
        known = np.resize(self.n, self.tests) > 1
        return int(np.argmax(np.where(known, self.support, -1.0)))

    def _seeds(self, test: int, family: int) -> int | None:
        """Return the number of seeds that would decide the claim (see `Decision.seeds`)."""
        effect, n = float(self.effects[test]), int(self.n[test % len(self.pairs)])
        if not math.isfinite(effect):
            return None
        # A single pair contradicts the claim, so this test is corrected for the number of tests.
        needed = seeds_needed(effect, family if effect > 0 else family * self.tests)
        return None if needed is None else max(needed, n + 1)

    def _reason(self, pair: int) -> str:
        """Return why the pair has no estimate, or how many pairs have no test; or an empty text."""
        missing = int(np.sum(self.n < 2))
        if self.failed[pair]:
            return "rank test, because a trial has the worst result"
        if missing:
            return f"{counted(missing, 'pair')} without two common seeds"
        return ""


# ---------------------------------------------------------------------- the correction


def _corrected(tests: Sequence[ClaimTest]) -> list[Decision]:
    """Return the decisions on claims, corrected by Holm's method."""
    fixed, anytime = (
        holm(np.array([min(1.0, 2 * min(p)) for p in sides]))
        for sides in ([test.fixed for test in tests], [test.anytime for test in tests])
    )
    return [
        test.decision(float(p), float(anytime_p), len(tests))
        for test, p, anytime_p in zip(tests, fixed, anytime, strict=True)
    ]


def _verdict(sides: tuple[float, float], p: float) -> str:
    """Return the verdict.

    Args:
        sides: The p-values of a claim and of its opposite.
        p: The corrected p-value of the claim.
    """
    if p > ALPHA:
        return INCONCLUSIVE
    return SUPPORTED if sides[0] < sides[1] else CONTRADICTED
