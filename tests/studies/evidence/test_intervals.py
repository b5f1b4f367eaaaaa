"""Intervals of means of accuracies and errors, which respect the range of the metric."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies.harness.evidence.arms import mean_curves
from studies.harness.evidence.metrics import bounds
from studies.harness.statistics.intervals import FEW, UNBOUNDED, mean_interval, summarize

STEP = 1 / 600
FRACTION, POSITIVE = (0.0, 1.0), (0.0, math.inf)


def exact(successes, examples):
    return tuple(stats.binomtest(successes, examples).proportion_ci(0.95))


def test_perfect_accuracies_have_an_interval():
    today = summarize([1.0, 1.0, 1.0])
    assert (today.ci_lo, today.ci_hi) == (1, 1)  # a t-interval says that no error is possible
    summary = summarize([1.0, 1.0, 1.0], STEP)
    assert (summary.ci_lo, summary.ci_hi) == pytest.approx(exact(1800, 1800))
    failed = summarize([0.0, 0.0, 0.0], STEP)
    assert (failed.ci_lo, failed.ci_hi) == pytest.approx(exact(0, 1800))


def test_interval_of_an_error_has_no_negative_end():
    values = [0.1, 0.2, 0.6]
    summary, mean = summarize(values, bounds=POSITIVE), np.mean(values)
    assert summarize(values).ci_lo < 0
    half = stats.t.ppf(0.975, 2) * stats.sem(values) / mean  # delta method: d log(x) = dx / x
    assert (summary.ci_lo, summary.ci_hi) == pytest.approx(
        (mean / np.exp(half), mean * np.exp(half))
    )
    assert (summary.mean, summary.sd) == (mean, np.std(values, ddof=1))


def test_interval_of_an_accuracy_ends_below_1():
    values = [0.99, 0.95, 0.80]
    summary, mean = summarize(values, bounds=FRACTION), np.mean(values)
    assert summarize(values).ci_hi > 1
    half = stats.t.ppf(0.975, 2) * stats.sem(values) / (mean * (1 - mean))
    odds = mean / (1 - mean) * np.exp([-half, half])
    assert (summary.ci_lo, summary.ci_hi) == pytest.approx(tuple(odds / (1 + odds)))


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        *(([value, value], FRACTION) for value in (0.0, 1.0, 0.94, 0.1)),
        *(([value, value, value], POSITIVE) for value in (0.0, 0.3)),
    ],
)
def test_interval_of_equal_values_contains_their_mean(values, bounds):
    """At a bound, the interval of a metric without a grid has no length."""
    summary = summarize(values, bounds=bounds)
    assert summary.ci_lo <= summary.mean <= summary.ci_hi
    assert (summary.ci_lo, summary.ci_hi) == pytest.approx((values[0], values[0]), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "bounds"), [([-1.0, 2.0, 3.0], POSITIVE), ([93.0, 95.0], FRACTION)]
)
def test_values_outside_the_range_have_the_t_interval(values, bounds):
    """A user-defined loss can be negative, and a user-defined accuracy can be in percent."""
    assert summarize(values, bounds=bounds) == summarize(values)


def test_interval_is_invariant_under_the_exchange_of_errors_and_successes():
    accuracy = summarize([0.99, 0.95, 0.80], bounds=FRACTION)
    error = summarize([0.01, 0.05, 0.20], bounds=FRACTION)
    assert (error.ci_lo, error.ci_hi) == pytest.approx((1 - accuracy.ci_hi, 1 - accuracy.ci_lo))


def test_unknown_scale_is_refused():
    with pytest.raises(ValueError, match=r"bounds = \(1, 2\): must be \(0, 1\)"):
        mean_interval(3, 1.5, 0.1, (1, 2))


def test_metrics_have_their_range():
    assert bounds("test/accuracy") == bounds("val/pixel_accuracy") == FRACTION
    assert bounds("test/mse") == bounds("train/loss") == bounds("time/train_s") == POSITIVE
    assert (-math.inf, math.inf) == UNBOUNDED


def test_curves_have_the_intervals_of_the_summary():
    values = {0: [0.2, 0.9, 0.99], 1: [0.95, 0.99, 1.0], 2: [1.0, 1.0, 1.0]}
    rows = [
        {"arm": "a", "epoch": epoch, "seed": seed, "test/accuracy": value, "test/loss": 1 - value}
        for epoch, sample in values.items()
        for seed, value in enumerate(sample)
    ]
    for metric, sign, scale in (("test/accuracy", 1, FRACTION), ("test/loss", -1, POSITIVE)):
        table = mean_curves(pd.DataFrame(rows), metric)["a"]
        for epoch, sample in values.items():
            sample = sample if sign == 1 else [1 - value for value in sample]
            summary = summarize(sample, bounds=scale)
            curve = table.loc[epoch, ["ci_lo", "ci_hi"]]
            assert tuple(curve) == pytest.approx((summary.ci_lo, summary.ci_hi))


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
