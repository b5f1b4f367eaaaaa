"""Tests of mean gains with a limited SD, and rank tests of arms with failures."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from studies.harness.statistics.paired import mean_test, rank_p

RNG = np.random.default_rng
STEP = 1 / 600


def test_mean_test_equals_scipy_and_ignores_missing_seeds():
    gains = RNG(0).normal(size=(20, 6)) + 0.5
    expected: Any = stats.ttest_1samp(gains, 0.0, axis=-1, alternative="greater")
    test = mean_test(gains)
    assert test.p_greater == pytest.approx(expected.pvalue)
    assert test.p_less == pytest.approx(1 - expected.pvalue)
    interval = stats.ttest_1samp(gains, 0.0, axis=-1).confidence_interval(0.95)
    assert test.ci_lo == pytest.approx(interval.low) and test.ci_hi == pytest.approx(interval.high)
    holes = np.insert(gains, 2, math.nan, axis=1)
    assert mean_test(holes).p_less == pytest.approx(test.p_less) and (mean_test(holes).n == 6).all()


def test_constant_gap_of_a_step_over_five_seeds_is_evidence():
    test = mean_test(np.full(5, STEP), STEP)
    # The SD is that of a difference of two rounding errors: t = sqrt(6) * sqrt(5).
    assert test.p_greater == pytest.approx(stats.t.sf(math.sqrt(30), 4))
    assert 2 * test.p_greater < 0.01
    assert 2 * mean_test(np.full(2, STEP), STEP).p_greater > 0.05


def test_constant_gap_of_a_continuous_metric_has_a_p_value_of_zero():
    for gains in ([0.1, 0.1, 0.1], [0.3 - 0.2, 0.1, 0.4 - 0.3]):
        test = mean_test(np.array(gains))
        assert test.p_greater < 1e-20 and test.p_less > 1 - 1e-12


def test_ties_are_not_a_difference_and_equal_only_within_the_grid():
    for step in (0.0, STEP):
        tie = mean_test(np.zeros(5), step)
        assert (tie.p_greater, tie.p_less) == (0.5, 0.5)
    assert mean_test(np.zeros(5) + 1e-9).p_greater < 1e-12  # equal within any margin
    assert mean_test(np.zeros(5) + STEP / 10, STEP).p_greater > 0.2  # not within a tenth of a step
    assert mean_test(np.zeros(5) + 2 * STEP, STEP).p_greater < 0.001


def test_gains_of_fewer_than_two_seeds_have_no_p_value():
    test = mean_test(np.array([[1.0, math.nan], [math.nan, math.nan]]))
    assert list(test.n) == [1, 0] and test.mean[0] == 1
    assert np.isnan([test.p_greater, test.p_less, test.ci_lo]).all()


@pytest.mark.parametrize("seed", range(5))
def test_rank_test_equals_the_enumeration_of_all_permutations(seed):
    arm, base = RNG(seed).integers(0, 4, (2, 4)).astype(float)
    arm[0] = -math.inf
    ranks = stats.rankdata([*arm, *base])
    sums = np.array([sum(drawn) for drawn in itertools.combinations(ranks, 4)])
    test = rank_p(arm, base, higher=True)
    assert test.p_better == pytest.approx(np.mean(sums >= ranks[:4].sum()))
    assert test.p_worse == pytest.approx(np.mean(sums <= ranks[:4].sum()))
    assert rank_p(-arm, -base, higher=False) == pytest.approx(test)
    assert rank_p(base, arm, higher=True) == pytest.approx(test[::-1])


def test_five_failures_against_five_results_are_significant():
    test = rank_p(np.full(5, -math.inf), np.arange(5.0), higher=True)
    assert test == pytest.approx((1, 1 / math.comb(10, 5)))
    loss = rank_p(np.full(5, math.inf), np.arange(5.0), higher=False)
    assert loss == pytest.approx(test)


def test_rank_test_uses_common_seeds():
    arm, base = np.array([1.0, 2, 3, math.nan]), np.array([0.0, -math.inf, math.nan, 5])
    assert rank_p(arm, base, True) == rank_p(arm[:2], base[:2], True)
    assert math.isnan(rank_p(arm[:1], base[:1], True).p_better)
