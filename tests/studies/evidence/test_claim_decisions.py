"""Decisions on claims against t-tests of SciPy, permutations, and simulations with a known truth."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies.harness.design.claims import Better, Change, Claim, Equivalent, NotWorse
from studies.harness.evidence.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_TESTED,
    SUPPORTED,
    Decision,
    decide,
    decide_from,
)
from studies.harness.evidence.gains import Table
from studies.harness.statistics.planning import seeds_needed
from studies.harness.statistics.sequential import anytime_p

ACCURACY, MSE = "test/accuracy", "test/mse"
ARMS = ["sgd", "foof", "nysact rank=5", "nysact rank=20"]
NOISE = np.random.default_rng(1).normal(size=(6, 4))
VALUES = pd.DataFrame([0.80, 0.83, 0.82, 0.815] + 0.004 * NOISE, columns=ARMS)


def decide_single(claim: Claim, values: pd.DataFrame = VALUES, metric: str = ACCURACY) -> Decision:
    (decision,) = decide([claim], values, metric)
    return decision


def greater(gains: pd.Series) -> float:
    return float(stats.ttest_1samp(gains, 0, alternative="greater").pvalue)


def two_sided(support: float, against: float) -> float:
    return min(1.0, 2 * min(support, against))


def test_superiority_is_a_paired_t_test():
    gains = VALUES["foof"] - VALUES["sgd"]
    decision = decide_single(Better("foof", than="sgd"))
    assert decision.p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    interval = stats.ttest_1samp(gains, 0).confidence_interval()
    assert (decision.ci_lo, decision.ci_hi) == pytest.approx((interval.low, interval.high))
    assert (decision.verdict, decision.n, decision.pairs) == (SUPPORTED, 6, 1)
    assert (decision.margin, decision.seeds) == (0, None)
    opposite = decide_single(Better("sgd", than="foof"))
    assert (opposite.verdict, opposite.estimate) == (CONTRADICTED, -decision.estimate)


def test_errors_are_compared_by_their_ratios():
    claim = NotWorse("nysact rank=5", than="foof", share=0.02)
    gains = VALUES["nysact rank=5"] - VALUES["foof"]
    absolute = decide_single(claim)  # a metric in percent has an absolute margin
    assert absolute.p == pytest.approx(two_sided(greater(gains + 0.003), greater(-gains - 0.003)))
    assert absolute.margin == pytest.approx(0.003)
    assert "by more than 0.30 percentage points" in absolute.text
    log_ratio = np.log(VALUES["foof"] / VALUES["nysact rank=5"])
    relative = decide_single(claim, 1 / VALUES, MSE)
    shifted = np.log(1.02) - log_ratio
    assert relative.p == pytest.approx(two_sided(greater(shifted), greater(-shifted)))
    assert relative.estimate == pytest.approx(np.exp(log_ratio.mean()))
    interval = stats.ttest_1samp(log_ratio, 0).confidence_interval()
    assert (relative.ci_lo, relative.ci_hi) == pytest.approx(np.exp([interval.low, interval.high]))
    assert relative.is_ratio and relative.margin == pytest.approx(0.02)
    assert relative.text.endswith("by more than 2%")
    # With a larger margin, the same gain supports the claim.
    assert decide_single(NotWorse("nysact rank=5", than="foof", points=0.03)).verdict == SUPPORTED


def test_equivalence_is_two_one_sided_tests():
    claim = Equivalent("nysact rank=5", to="nysact rank=20", points=0.02)
    gains = VALUES["nysact rank=5"] - VALUES["nysact rank=20"]
    support = max(greater(gains + 0.02), greater(0.02 - gains))
    against = 2 * min(greater(-gains - 0.02), greater(gains - 0.02))
    decision = decide_single(claim)
    assert decision.p == pytest.approx(two_sided(support, against))
    assert decision.verdict == SUPPORTED
    narrow = Equivalent("sgd", to="foof")
    assert decide_single(narrow).verdict == CONTRADICTED


def test_claim_about_several_pairs_needs_all_of_them():
    gains = {arm: VALUES[arm] - VALUES["sgd"] for arm in ARMS[2:]}
    decision = decide_single(Better("nysact rank=*", than="sgd"))
    weakest = max(gains, key=lambda arm: greater(gains[arm]))
    assert decision.p == pytest.approx(2 * greater(gains[weakest]))
    assert (decision.arm, decision.pairs) == (weakest, 2)
    against = decide_single(Better("sgd", than="nysact rank=*"))
    assert against.p == pytest.approx(2 * 2 * min(map(greater, gains.values())))
    assert (against.verdict, against.base) == (CONTRADICTED, "nysact rank=5")


def test_changes_are_compared_by_seed():
    claim = Better(Change("foof", "sgd"), than=Change("nysact rank=20", "nysact rank=5"))
    gains = VALUES["foof"] - VALUES["sgd"] - VALUES["nysact rank=20"] + VALUES["nysact rank=5"]
    assert decide_single(claim).p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)


def test_holms_correction_is_over_the_tested_claims():
    claims = [
        Better("foof", than="sgd"),
        Better("foof", than="nysact rank=*"),
        Better("x", than="*"),
    ]
    alone = [decide_single(claim).p for claim in claims[:2]]
    small, large = sorted(alone)
    corrected = [decision.p for decision in decide(claims, VALUES, ACCURACY)[:2]]
    assert sorted(corrected) == pytest.approx([2 * small, max(2 * small, large)])


def test_anytime_decision_uses_the_order_of_the_seeds():
    gains = (VALUES["foof"] - VALUES["sgd"]).to_numpy()
    decision = decide_single(Better("foof", than="sgd"))
    expected = anytime_p(gains)
    assert decision.anytime_p == pytest.approx(min(1, 2 * expected.p_greater))
    assert decision.e == pytest.approx(expected.e_greater)
    shrinking = VALUES.iloc[np.argsort(-gains)]
    assert decide_single(Better("foof", than="sgd"), shrinking).anytime_p != decision.anytime_p


def test_smaller_values_are_better_for_an_error():
    claims = [Better("foof", than="sgd"), NotWorse("sgd", than="nysact rank=*", points=0.05)]
    higher = decide(claims, VALUES, ACCURACY)
    lower = decide(claims, np.exp(-VALUES), MSE)
    assert [row.verdict for row in lower] == [row.verdict for row in higher]
    assert decide_single(claims[0], np.exp(-VALUES), MSE).p == pytest.approx(
        decide_single(claims[0]).p
    )
    assert lower[0].estimate == pytest.approx(np.exp(-higher[0].estimate))


def test_values_that_may_be_0_are_compared_by_their_differences():
    """The margin is then a share of the base under the same seed."""
    values = 1 - VALUES
    values.loc[0, "foof"] = 0.0
    claim = NotWorse("nysact rank=5", than="foof", share=0.02)
    gains = values["foof"] * 1.02 - values["nysact rank=5"]
    decision = decide_single(claim, values, MSE)
    assert decision.p == pytest.approx(two_sided(greater(gains), greater(-gains)))
    assert not decision.is_ratio and decision.text.endswith("by more than 2% of the mean of foof")


def test_an_arm_that_a_claim_does_not_name_does_not_change_its_scale():
    claim = NotWorse("nysact rank=5", than="foof")
    assert decide_single(claim, VALUES.assign(sgd=0.0), MSE) == decide_single(claim, VALUES, MSE)


# ---------------------------------------------------------------------- failures and missing values


def failed(arm: str, *seeds: int) -> pd.DataFrame:
    values = VALUES.copy()
    values.loc[list(seeds), arm] = -np.inf
    return values


def test_failures_rank_last_and_replace_the_t_test():
    """The p-value is that of all assignments of the 12 results to two arms."""
    values = failed("foof", 0, 1)
    decision = decide_single(Better("foof", than="sgd"), values)
    pooled = np.concatenate([values["foof"], values["sgd"]])
    ranks = stats.rankdata(pooled)
    sums = np.array([sum(c) for c in itertools.combinations(ranks, 6)])
    observed = ranks[:6].sum()
    expected = two_sided(np.mean(sums >= observed - 1e-9), np.mean(sums <= observed + 1e-9))
    assert decision.p == pytest.approx(expected)
    assert np.isnan([decision.estimate, decision.ci_lo, decision.ci_hi]).all()
    assert decision.seeds is None and "worst result" in decision.reason


def test_arm_that_fails_everywhere_is_worse_than_one_that_never_fails():
    values = failed("foof", *range(6))
    assert decide_single(Better("foof", than="sgd"), values).verdict == CONTRADICTED
    assert decide_single(NotWorse("sgd", than="foof"), values).verdict == SUPPORTED
    assert decide_single(Equivalent("sgd", to="foof", points=0.5), values).verdict == CONTRADICTED


def test_two_arms_that_fail_together_are_not_distinguishable():
    values = failed("foof", *range(6)).assign(sgd=-np.inf)
    assert decide_single(Better("foof", than="sgd"), values).verdict == INCONCLUSIVE


def test_change_from_a_failure_to_a_failure_is_unknown():
    arm, base, lost = Change("a", "b"), Change("c", "b"), [-np.inf] * 6
    claims = [Better(arm, than=base), NotWorse(arm, than=base), Equivalent(arm, to=base)]
    values = pd.DataFrame({"a": lost, "b": lost, "c": lost})
    decisions = decide(claims, values, "test/accuracy")
    assert [decision.verdict for decision in decisions] == [NOT_TESTED] * 3


def test_seeds_without_both_results_are_left_out():
    values = VALUES.copy()
    values.loc[0, "foof"] = np.nan
    decision = decide_single(Better("foof", than="sgd"), values)
    assert (decision.n, decision.p) == (5, decide_single(Better("foof", than="sgd"), VALUES[1:]).p)
    values.loc[1:4, "nysact rank=5"] = np.nan
    several = decide_single(Better("nysact rank=*", than="foof"), values)
    assert several.verdict == CONTRADICTED and several.arm == "nysact rank=20"
    hopeful = decide_single(Better("foof", than="nysact rank=*"), values)
    assert hopeful.verdict == INCONCLUSIVE
    assert hopeful.reason == "1 pair without two common seeds"


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (Better("adam", than="sgd"), "no arm of this plan is called adam"),
        (Better("foof", than="sgd", on=("cifar10/*",)), "it is a claim about cifar10/*"),
        (Better("foof", than="sgd"), "fewer than two common seeds have a result"),
    ],
    ids=str,
)
def test_claims_that_cannot_be_tested_state_the_reason(claim: Claim, reason: str):
    (decision,) = decide([claim], VALUES[:1], ACCURACY, workload="digits/cnn")
    assert (decision.verdict, decision.reason) == (NOT_TESTED, reason)


def test_claim_about_an_unknown_metric_is_not_tested():
    claim = Better("foof", than="sgd", metric="test/perplexity")
    tables = {"": Table(VALUES, ACCURACY)}
    (decision,) = decide_from([claim], tables, "digits/cnn")
    assert decision.reason == "digits/cnn has no metric test/perplexity"


# ---------------------------------------------------------------------- zero variance and planning


def test_constant_gap_is_evidence_and_a_tie_is_not_equality_beyond_the_grid():
    tied = pd.DataFrame({"a": [0.9] * 5, "b": [0.9] * 5, "c": [0.9 - 1 / 60] * 5})
    assert decide_single(Better("a", than="c"), tied).verdict == SUPPORTED
    coarse = decide([Equivalent("a", to="b")], tied, ACCURACY, step=1 / 60)[0]
    fine = decide([Equivalent("a", to="b")], tied, ACCURACY, step=1 / 10_000)[0]
    assert (coarse.verdict, fine.verdict) == (INCONCLUSIVE, SUPPORTED)


def test_seeds_are_those_of_the_observed_effect_after_the_correction():
    gains = VALUES["nysact rank=5"] - VALUES["nysact rank=20"]
    effect = float(gains.mean() / gains.std())
    claims = [
        Better("nysact rank=5", than="nysact rank=20"),
        Better("foof", than="sgd"),
        Better("foof", than="nysact rank=*"),
    ]
    decision = decide(claims, VALUES, ACCURACY)[0]
    assert decision.verdict == INCONCLUSIVE
    assert decision.seeds == seeds_needed(effect, 3) > 6
    # To contradict a claim about three pairs, a pair is corrected for three tests.
    several = decide_single(Better("nysact rank=20", than="*"), VALUES.assign(sgd=0.0, foof=0.0))
    assert several.seeds == seeds_needed(effect, 3)
