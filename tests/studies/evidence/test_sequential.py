"""The e-processes behind the tests that stay valid if seeds are added."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from studies.harness.statistics.sequential import (
    PRIOR,
    anytime_p,
    e_process,
    sign_process,
    t_process,
)

RNG = np.random.default_rng


def mixture(gains):
    """Return the density of the t statistic under the prior of the effect, relative to no effect."""
    n = len(gains)
    t = float(np.mean(gains) * math.sqrt(n) / np.std(gains, ddof=1))

    def density(effect):
        prior = 2 * stats.norm.pdf(effect, scale=math.sqrt(PRIOR))
        return prior * stats.nct.pdf(t, n - 1, effect * math.sqrt(n))

    return integrate.quad(density, 0, 15, limit=200)[0] / stats.t.pdf(t, n - 1)


@pytest.mark.parametrize("shift", [-0.5, 0.0, 1.0])
def test_e_process_is_the_mixture_of_noncentral_t_densities(shift):
    gains = RNG(0).normal(size=6) + shift
    expected = [mixture(gains[:n]) for n in range(2, 7)]
    assert t_process(gains)[1:] == pytest.approx(expected, rel=1e-4)


def test_e_process_does_not_depend_on_the_scale_and_falls_with_the_gains():
    gains = RNG(1).normal(size=(50, 20))
    assert t_process(7 * gains) == pytest.approx(t_process(gains))
    # This makes it valid for every mean below 0.
    assert (t_process(gains - 0.3) <= t_process(gains)).all()


def test_sign_process_is_the_mixture_over_the_probability_of_a_positive_gain():
    prior: Any = stats.beta(0.5, 0.5)
    likelihood = integrate.quad(lambda q: 2 * prior.pdf(q) * q**5 * (1 - q) ** 2, 0.5, 1)[0]
    gains = np.array([1, 2, -1, 0, 1, -3, 1, math.inf])
    assert sign_process(gains)[-1] == pytest.approx(likelihood * 2**7)


def test_p_value_is_that_of_the_largest_e_value():
    gains = np.array([1.0, 1.2, 0.9, 1.1, -3.0, -3.0])
    test = anytime_p(gains)
    assert test.e_greater == t_process(gains)[1:].max() > t_process(gains)[-1]
    assert test.p_greater == 1 / test.e_greater < 0.05
    assert anytime_p(-gains) == (test.p_less, test.p_greater, test.e_less, test.e_greater)


def test_failures_count_as_losses_and_keep_the_evidence_before_them():
    gains = np.array([1.0, 1.2, math.nan, 0.9, -math.inf, -2.0, -math.inf])
    before = t_process(gains[[0, 1, 3]])
    expected = [*before, *before[-1] * sign_process(np.array([-1.0, -1, -1]))]
    assert e_process(gains[~np.isnan(gains)]) == pytest.approx(expected)
    assert anytime_p(np.full(7, -math.inf)).p_less < 0.025
    assert anytime_p(np.full(7, -math.inf)).p_greater == 1


def test_ties_and_constant_gaps_on_a_grid():
    assert anytime_p(np.zeros(10)) == (1, 1, 1, 1)
    assert anytime_p(np.zeros(10), step=0.1)[:2] == (1, 1)
    constant = anytime_p(np.full(6, 0.1), step=0.1)
    assert anytime_p(np.full(6, 0.1)).e_greater > constant.e_greater > 40


def test_one_gain_is_no_evidence():
    assert np.isnan(anytime_p(np.array([1.0, math.nan]))).all()
