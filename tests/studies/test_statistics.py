"""Means and 95% t-intervals over seeds."""

import math

import pytest
from folders import ARMS, accuracy, planned, write_trial
from scipy import stats

from studies.harness.evidence import ledger
from studies.harness.evidence.arms import group
from studies.harness.statistics.intervals import summarize
from trainables.store import DIVERGED

SAMPLE = [0.95, 0.97, 0.96, 0.99, 0.93]


def test_interval_equals_a_hand_calculation():
    summary = summarize([1.0, 2.0, 3.0, 4.0])
    # The quantile t(0.975, 3), the standard deviation and the square root of n.
    half = 3.182446305284263 * math.sqrt(5 / 3) / 2
    assert (summary.n, summary.mean) == (4, 2.5)
    assert summary.sd == pytest.approx(math.sqrt(5 / 3))
    assert (summary.ci_lo, summary.ci_hi) == pytest.approx((2.5 - half, 2.5 + half))


def test_interval_agrees_with_the_one_sample_t_test():
    expected = stats.ttest_1samp(SAMPLE, 0.0).confidence_interval(0.95)
    summary = summarize(SAMPLE)
    assert (summary.ci_lo, summary.ci_hi) == pytest.approx((expected.low, expected.high))


def test_95_percent_interval_of_four_values_covers_the_mean_in_95_percent_of_samples():
    samples = stats.norm.rvs(size=(2000, 4), random_state=0)
    covered = sum(summary.ci_lo <= 0 <= summary.ci_hi for summary in map(summarize, samples))
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)  # a normal interval covers 0.85


def test_fewer_than_two_values_have_no_interval():
    single, empty = summarize([0.5]), summarize([])
    assert (single.n, single.mean) == (1, 0.5)
    assert all(math.isnan(value) for value in (single.sd, single.ci_lo, single.ci_hi))
    assert empty.n == 0 and math.isnan(empty.mean)


def test_diverged_trial_is_counted_but_not_averaged(tmp_path):
    trials = planned()
    for trial in trials:
        if trial == trials[0]:
            write_trial(tmp_path, trial, 1, DIVERGED)
        else:
            write_trial(tmp_path, trial)
    table = group(ledger.frame(trials, tmp_path), "test/accuracy")
    assert list(table["arm"]) == [arm.label for arm in ARMS]
    sgd = table.iloc[0]
    assert (sgd["n"], sgd["planned"], sgd["diverged"], sgd["failed"]) == (2, 3, 1, 0)
    completed = [accuracy(trial, 1) for trial in trials[1:] if trial.arm.optimizer == "sgd"]
    assert sgd["mean"] == pytest.approx(sum(completed) / 2)
    assert list(table["n"])[1:] == [3] * 7


def test_summaries_are_empty_before_the_first_commit(tmp_path):
    table = group(ledger.frame(planned(), tmp_path), "test/accuracy")
    assert list(table["n"]) == [0] * 8
    assert list(table["not run"]) == [3] * 8
    assert table["mean"].isna().all()
