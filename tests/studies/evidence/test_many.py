"""Comparisons of all pairs of arms with moderated variances."""

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from studies.harness.statistics.many import CAUTION, all_pairs_p, prior_df
from studies.harness.statistics.paired import holm

RNG = np.random.default_rng


def test_p_values_equal_the_formulas():
    values = RNG(0).normal(size=(4, 5)) * [1, 2, 3, 4, 5]
    first, second = np.triu_indices(5, 1)
    gains = (values[:, first] - values[:, second]).T
    variance, df = gains.var(axis=-1, ddof=1), 3
    # Smyth (2004), section 6.2
    logs = np.log(variance) - special.digamma(df / 2) + math.log(df / 2)
    excess = logs.var(ddof=1) - special.polygamma(1, df / 2)
    root = optimize.brentq(lambda d: special.polygamma(1, d / 2) - excess, 1e-3, 1e5)
    weight = CAUTION * float(root)  # type: ignore[arg-type]
    moderated = (weight * variance.mean() + df * variance) / (weight + df)
    t = gains.mean(axis=-1) / np.sqrt(moderated / 4)
    p = 2 * stats.t.sf(np.abs(t), min(weight + df, 4 * df))
    assert all_pairs_p(values) == pytest.approx(holm(p), rel=1e-3)


@pytest.mark.parametrize("df", [2, 6, 30])
def test_prior_degrees_of_freedom_are_recovered(df):
    rng = RNG(df)
    true = 8 / rng.chisquare(8, size=20_000)
    variances = true * rng.chisquare(df, size=20_000) / df
    assert prior_df(variances, np.full(20_000, df))[0] == pytest.approx(8, rel=0.1)
    equal = rng.chisquare(df, size=20_000) / df
    assert prior_df(equal, np.full(20_000, df))[0] > 50


def test_two_arms_have_the_paired_t_test():
    values = RNG(1).normal(size=(6, 2))
    assert all_pairs_p(values) == pytest.approx(stats.ttest_rel(*values.T).pvalue)


def test_tables_are_independent_and_missing_seeds_are_ignored():
    values = RNG(2).normal(size=(3, 5, 4))
    together = all_pairs_p(values)
    assert together == pytest.approx(np.stack([all_pairs_p(table) for table in values]))
    values[:, 1:, 3] = math.nan  # one result is left
    p = all_pairs_p(values)
    assert np.isnan(p[:, [2, 4, 5]]).all()
    assert p[:, [0, 1, 3]] == pytest.approx(all_pairs_p(values[..., :3]))


def test_seed_effects_and_units_do_not_matter():
    values = RNG(3).normal(size=(5, 6))
    assert all_pairs_p(100 * values + np.arange(5.0)[:, None]) == pytest.approx(all_pairs_p(values))


def test_arm_that_always_fails_is_significantly_worse_and_failures_are_never_better():
    values = RNG(4).normal(size=(5, 4))
    values[:, 3] = -math.inf
    assert (all_pairs_p(values)[[2, 4, 5]] < 0.001).all()
    assert all_pairs_p(-values) == pytest.approx(all_pairs_p(values))
    values[0] = -math.inf  # all arms fail under this seed
    assert all_pairs_p(values)[2] <= 0.05


def test_tables_without_differences():
    for table in (np.ones((3, 3)), np.full((3, 3), -math.inf)):
        assert all_pairs_p(table).tolist() == [1, 1, 1]
    assert np.isnan(all_pairs_p(np.full((3, 3), math.nan))).all()
    assert np.isnan(all_pairs_p(np.ones((1, 3)))).all()
    assert all_pairs_p(np.ones((3, 1))).size == 0


def test_constant_gaps_are_differences_and_a_grid_limits_them():
    values = np.tile([1.0, 2.0, 1.0], (5, 1))
    assert (all_pairs_p(values)[[0, 2]] < 1e-9).all() and all_pairs_p(values)[1] == 1
    assert 1e-9 < all_pairs_p(values, step=1.0)[0] < 0.05
