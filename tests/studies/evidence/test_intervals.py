"""Intervals of mean accuracies near 0 and 1."""

import pytest
from scipy import stats

from studies.harness.statistics.intervals import FEW, summarize

STEP = 1 / 600


def exact(successes, examples):
    return tuple(stats.binomtest(successes, examples).proportion_ci(0.95))


def test_perfect_accuracies_have_an_interval():
    today = summarize([1.0, 1.0, 1.0])
    assert (today.ci_lo, today.ci_hi) == (1, 1)  # a t-interval says that no error is possible
    summary = summarize([1.0, 1.0, 1.0], STEP)
    assert (summary.ci_lo, summary.ci_hi) == pytest.approx(exact(1800, 1800))
    failed = summarize([0.0, 0.0, 0.0], STEP)
    assert (failed.ci_lo, failed.ci_hi) == pytest.approx(exact(0, 1800))


def test_interval_near_the_ceiling_contains_the_t_interval_and_the_exact_one():
    values = [599 / 600, 600 / 600, 598 / 600, 600 / 600, 599 / 600]
    t, summary = summarize(values), summarize(values, STEP)
    low, high = exact(2996, 3000)
    assert summary.ci_lo == pytest.approx(min(t.ci_lo, low))
    assert summary.ci_hi == pytest.approx(min(1, max(t.ci_hi, high)))
    assert (summary.mean, summary.sd) == (t.mean, t.sd)


def test_interval_away_from_the_ceiling_is_the_t_interval():
    values = [1 - (FEW + extra) * STEP for extra in (1, 5, 9)]
    assert summarize(values, STEP) == summarize(values)
    assert summarize([1.0], STEP).n == 1
