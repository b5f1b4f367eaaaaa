"""Paired tests between arms, and the arms whose means a report prints in bold.

A mean is bold if the arm is significantly better than some arm and significantly worse than none.
"""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies.harness.evidence.arms import by_seed
from studies.harness.evidence.contrasts import bold, contrasts, detectable
from studies.harness.statistics.intervals import summarize
from studies.harness.statistics.many import all_pairs_p
from studies.harness.statistics.paired import holm, mean_test
from studies.harness.statistics.planning import smallest_effect

RNG = np.random.default_rng
METRIC = "test/accuracy"


def frame(values, status="completed"):
    """Return a ledger frame from {arm: a value for each seed}; nan stands for a diverged trial."""
    rows = [
        {
            "arm": arm,
            "optimizer": arm,
            "seed": seed,
            METRIC: value,
            "status": "diverged" if value != value else status,
        }
        for arm, sample in values.items()
        for seed, value in enumerate(sample)
    ]
    return pd.DataFrame(rows)


def values_of(values):
    return by_seed(frame(values), METRIC)


def pairs_of(values):
    return contrasts(values_of(values), METRIC)


def bold_of(values):
    return bold(pairs_of(values))


def test_holm_equals_statsmodels():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5, 0.012])
    # statsmodels 0.15, multipletests(p, method="holm")
    expected = [0.05, 0.09, 0.09, 0.03, 0.5, 0.05]
    assert holm(p) == pytest.approx(expected)
    assert holm(np.stack([p, p[::-1]]))[1] == pytest.approx(expected[::-1])
    with_nan = holm(np.insert(p, 1, math.nan))
    assert math.isnan(with_nan[1]) and np.delete(with_nan, 1) == pytest.approx(expected)


def test_equivalence_by_two_one_sided_tests_equals_statsmodels():
    differences = np.array([0.001, 0.002, -0.001, 0.0005, 0.0015])
    expected = 0.006456268141645009  # statsmodels 0.15, ttost_paired
    above, below = mean_test(differences + 0.003), mean_test(differences - 0.003)
    assert max(above.p_greater, below.p_less) == pytest.approx(expected)


def test_95_percent_interval_of_five_seeds_covers_the_mean_in_95_percent_of_samples():
    values = RNG(1).normal(size=(20_000, 5))
    half = stats.t.ppf(0.975, 4) * values.std(axis=1, ddof=1) / math.sqrt(5)
    summaries = [summarize(sample) for sample in values[:200]]
    assert [summary.ci_hi - summary.mean for summary in summaries] == pytest.approx(
        list(half[:200])
    )
    assert 0.94 <= np.mean(np.abs(values.mean(axis=1)) <= half) <= 0.96


def test_contrasts_use_common_seeds_and_a_correction_over_all_pairs():
    rng = RNG(4)
    values = values_of(dict(zip("abc", rng.normal(size=(3, 5)), strict=True)))
    values.loc[4, "b"] = math.nan  # a trial that has not ended
    a, b = values["a"], values["b"]
    table = contrasts(values, METRIC)
    assert list(zip(table["arm"], table["other"], strict=True)) == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert list(table["n"]) == [4, 5, 4]
    expected = stats.ttest_rel(a[:4], b[:4])
    interval = expected.confidence_interval(0.95)
    first = table.iloc[0]
    assert (first["p"], first["difference"]) == pytest.approx((expected.pvalue, (a - b)[:4].mean()))
    assert (first["ci_lo"], first["ci_hi"]) == pytest.approx((interval.low, interval.high))
    assert list(table["p_adjusted"]) == pytest.approx(list(all_pairs_p(values.to_numpy())))


def test_pairing_removes_the_effect_of_the_seed():
    """Arms differ by 0.1 and seeds by 1.0, so only the paired test is significant."""
    seeds = np.arange(5.0)
    values = {"a": seeds + 0.1 + RNG(5).normal(size=5) * 0.01, "b": seeds}
    assert bold_of(values) == {"a"}
    assert stats.ttest_ind(values["a"], values["b"]).pvalue > 0.9
    summary = detectable(values_of(values))
    assert summary is not None and summary.difference < 0.05


def test_smallest_effect_equals_statsmodels():
    # From TTestIndPower and TTestPower of statsmodels 0.15: 80% power at the 5% level, in standard
    # deviations.
    for n, _, paired in (
        (3, 3.0709, 3.2640),
        (5, 2.0244, 1.6820),
        (10, 1.3249, 0.9960),
        (20, 0.9091, 0.6604),
    ):
        assert smallest_effect(n) == pytest.approx(paired, abs=2e-4)


def test_detectable_difference_pools_the_spread_of_the_differences():
    rng = RNG(6)
    shared = rng.normal(size=2000)
    values = {arm: 0.8**0.5 * shared + 0.2**0.5 * rng.normal(size=2000) for arm in "abc"}
    summary = detectable(values_of(values))
    assert summary is not None and (summary.n, summary.pairs) == (2000, 3)
    assert summary.sd == pytest.approx(0.4**0.5, abs=0.02)
    assert summary.difference == pytest.approx(summary.effect * summary.sd)
    assert detectable(values_of({"a": [1.0], "b": [2.0]})) is None


def test_by_seed_keeps_the_order_of_the_plan():
    table = values_of({"z": [1.0, 2.0], "a": [3.0, math.nan]})
    assert list(table.columns) == ["z", "a"] and table.to_numpy()[0].tolist() == [1.0, 3.0]
    assert table["a"][1] == -math.inf  # the trial diverged
