"""The power of a paired t-test, also after a correction for several tests."""

import math

import pytest
from scipy import stats

from studies.harness.statistics.planning import power, seeds_needed, smallest_effect


@pytest.mark.parametrize(("n", "effect"), [(3, 3.2640), (5, 1.6820), (10, 0.9960), (20, 0.6604)])
def test_smallest_effect_equals_statsmodels(n, effect):
    # TTestPower of statsmodels 0.15: 80% power at the 5% level.
    assert smallest_effect(n) == pytest.approx(effect, abs=2e-4)
    assert seeds_needed(1.001 * effect) == n and seeds_needed(0.999 * effect) == n + 1


@pytest.mark.parametrize(("n", "tests"), [(5, 1), (5, 6), (10, 45), (10, 630)])
def test_power_equals_the_noncentral_t_distribution(n, tests):
    effect = smallest_effect(n, tests)
    critical = stats.t.isf(0.025 / tests, n - 1)
    expected = stats.nct.sf(critical, n - 1, effect * math.sqrt(n))
    assert expected == pytest.approx(0.8, abs=1e-3)
    assert power(n, -effect, tests) == pytest.approx(expected, abs=1e-3)


def test_all_pairs_of_36_arms_with_three_seeds_detect_only_enormous_effects():
    assert stats.t.isf(0.025 / 630, 2) > 112
    assert smallest_effect(3, 630) > 80


def test_number_of_seeds_for_any_effect():
    assert seeds_needed(100.0) == 2
    assert seeds_needed(-1.0) == seeds_needed(1.0) == 10
    assert seeds_needed(1.0, tests=45) == 23
    for effect in (0.0, 0.01, math.nan):
        assert seeds_needed(effect) is None
