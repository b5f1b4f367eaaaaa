"""The epoch at which a run reaches a target, and the Kaplan-Meier median over runs."""

import math

import numpy as np
import pandas as pd
import pytest

from studies.harness.evidence.targets import curves, target_of_runs
from studies.harness.statistics.times import hit, hits, median_time, time_to_target


def test_hit_returns_the_known_crossing():
    """The curves are straight lines that cross 0.5 at a known epoch."""
    rng = np.random.default_rng(0)
    for crossing in rng.uniform(1.5, 9.0, size=50):
        curve = 0.5 + 0.03 * (np.arange(1, 13) - crossing)
        assert hit(curve, 0.5) == pytest.approx(crossing)
        assert hit(curve, 0.5, interpolate=False) == math.ceil(crossing)
        assert hit(-curve, -0.5, higher=False) == pytest.approx(crossing)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.9, 0.1, 0.9, 0.9], 2 + 0.4 / 0.8),  # a single first evaluation does not count
        ([0.1, 0.2, 0.9], math.nan),  # a single last evaluation does not count
        ([0.6, 0.7], 1.0),  # there is no earlier evaluation to interpolate from
        ([0.1, math.nan, 0.7, 0.7], 3.0),
        ([0.1, 0.7, math.nan, 0.7], math.nan),
        ([0.1, 0.2], math.nan),
        ([0.5, 0.5], 1.0),
        ([], math.nan),
    ],
)
def test_hit_requires_two_consecutive_evaluations(curve, expected):
    assert hit(curve, 0.5) == pytest.approx(expected, nan_ok=True)


# A textbook example, Freireich et al. 1963: weeks of remission with 6-MP and with a placebo. In
# `RELAPSED`, 1 stands for a relapse, and 0 for a patient whose time is censored.
SIX_MP = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def test_kaplan_meier_median_and_interval_equal_the_textbook_values():
    treated = median_time(SIX_MP, [bool(x) for x in RELAPSED])
    assert (treated.hits, treated.n, treated.median) == (9, 21, 23.0)
    # The interval is from the 6th to the 16th of 21 times: P(Bin(21, 1/2) <= 5) = 0.013. The 6th
    # includes censored times, and fewer than 16 patients relapsed.
    assert treated.ci_lo == 9.0 and math.isnan(treated.ci_hi)
    placebo = median_time(PLACEBO, [True] * 21)
    assert (placebo.median, placebo.ci_lo, placebo.ci_hi) == (8.0, 4.0, 12.0)


def test_median_exists_if_half_of_the_runs_reach_the_target():
    assert median_time([3.0, 5.0, 9.0, 9.0], [True, True, False, False]).median == 7.0
    few = median_time([3.0, 9.0, 9.0], [True, False, False])
    assert (few.hits, few.n) == (1, 3) and math.isnan(few.median)
    none = median_time([9.0, 9.0], [False, False])
    assert (none.hits, none.n) == (0, 2) and math.isnan(none.median)
    assert median_time([], []).n == 0


def test_censored_run_counts_until_its_end():
    """Without the run, the median would be 7 instead of 8; with its end as a hit, it would be 6."""
    times, observed = [2.0, 4.0, 6.0, 8.0, 10.0], [True, False, True, True, True]
    assert median_time(times, observed).median == 8.0
    assert median_time([2.0, 6.0, 8.0, 10.0], [True] * 4).median == 7.0
    assert median_time(times, [True] * 5).median == 6.0


@pytest.mark.parametrize(
    ("times", "observed", "median"),
    [
        ([3.0, 5.0, 9.0, 9.5], [True] * 4, 7.0),  # the median of an even number of times
        ([3.0, 5.0, 9.0, 9.5], [True, True, False, True], 7.25),  # until the next hit
        ([3.0, 5.0, 9.0, 9.0], [True, True, False, False], 7.0),  # until the end of the runs
        ([3.0, 5.0, 5.0, 5.0], [True, True, True, False], 5.0),
    ],
)
def test_median_is_the_midpoint_if_the_curve_is_exactly_one_half(times, observed, median):
    """`quantile.survfit` of the R package survival returns the midpoint of the horizontal part."""
    assert median_time(times, observed).median == median


def test_interval_of_the_median_is_withheld_below_six_runs():
    for n in range(6):
        result = median_time(np.arange(1.0, n + 1).tolist(), [True] * n)
        assert math.isnan(result.ci_lo) and math.isnan(result.ci_hi)
    six = median_time([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [True] * 6)
    assert (six.median, six.ci_lo, six.ci_hi) == (3.5, 1.0, 6.0)
    capped = median_time([1.0, 2.0, 3.0, 4.0, 9.0, 9.0], [True] * 4 + [False] * 2)
    assert capped.ci_lo == 1.0 and math.isnan(capped.ci_hi)


def test_curves_group_the_epochs_by_arm_and_seed():
    runs = {"fast": [[0.1, 0.6, 0.7], [0.2, 0.6, 0.6]], "slow": [[0.1, 0.2, 0.3], [0.1, 0.6, 0.7]]}
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "trial_key": f"{arm}{seed}",
            "status": "completed",
            "epoch": epoch,
            "a": value,
        }
        for arm, curves_of in runs.items()
        for seed, run in enumerate(curves_of)
        for epoch, value in enumerate(run)
    ]
    # A trial that diverged during its first epoch.
    early = {"arm": "slow", "seed": 2, "trial_key": "z", "status": "diverged"}
    trials = [row for row in rows if not row["epoch"]] + [early]
    trials += [{**rows[0], "seed": 3, "trial_key": "x", "status": "in flight"}]
    by_arm = curves(pd.DataFrame(trials), pd.DataFrame(rows), "a")
    seeds = {arm: list(runs) for arm, runs in by_arm.items()}
    assert seeds == {"fast": [0, 1], "slow": [0, 1, 2]}
    fast, slow = (time_to_target(by_arm[arm], 0.5) for arm in ("fast", "slow"))
    assert (fast.hits, fast.n, slow.hits, slow.n) == (2, 2, 1, 3)
    assert fast.median == pytest.approx((1.75 + 1.8) / 2)
    assert time_to_target(by_arm["fast"], 0.5, whole=True).median == 2.0


# ---------------------------------------------------------------------- direction of the metric


@pytest.fixture
def frame() -> pd.DataFrame:
    """A ledger frame: two completed trials of SGD, a diverged one, and a trial of FOOF."""
    return pd.DataFrame(
        {
            "optimizer": ["sgd", "sgd", "sgd", "foof"],
            "status": ["completed", "completed", "diverged", "completed"],
            "test/mse": [1.2, 0.8, 50.0, 0.1],
            "best/test/mse": [0.6, 0.2, 40.0, 0.1],
            "test/accuracy": [0.9, 0.7, 0.1, 0.99],
            "best/test/accuracy": [0.95, 0.85, 0.2, 0.99],
        }
    )


@pytest.mark.parametrize(
    ("metric", "of", "share", "value", "text"),
    [
        (
            "test/mse",
            "last",
            0.8,
            1.25,
            "r; for mse, 1 / 0.8 x 1.000, the mean mse of the last epoch",
        ),
        (
            "test/mse",
            "best",
            0.8,
            0.5,
            "r; for mse, 1 / 0.8 x 0.4000, the mean mse of the best epoch",
        ),
        ("test/mse", "last", 1.0, 1.0, "r: 1.000, the mean mse of the last epoch"),
        (
            "test/accuracy",
            "last",
            0.9,
            0.72,
            "r: 0.9 x 80.00%, the mean accuracy of the last epoch",
        ),
        (
            "test/accuracy",
            "best",
            0.9,
            0.81,
            "r: 0.9 x 90.00%, the mean accuracy of the best epoch",
        ),
    ],
)
def test_target_is_worse_than_the_result_of_the_reference_by_the_share(
    frame: pd.DataFrame, metric: str, of: str, share: float, value: float, text: str
):
    target = target_of_runs(frame, metric, "sgd", share=share, of=of, rule="r")
    assert target is not None and target.value == pytest.approx(value)
    assert target.source == f"{text} over 2 trials"


def test_reference_without_completed_trials_gives_no_target(frame: pd.DataFrame):
    rule = {"share": 0.9, "of": "last", "rule": "r"}
    assert target_of_runs(frame, "test/mse", "kfac", **rule) is None
    assert target_of_runs(frame.iloc[2:3], "test/mse", "sgd", **rule) is None
    assert target_of_runs(frame.filter(["optimizer", "status"]), "test/mse", "sgd", **rule) is None


def test_runs_reach_the_target_of_an_error_from_above():
    runs = {
        0: [3.0, 2.0, 1.0, 1.0],
        1: [4.0, 3.0, 3.0, 3.0],  # never at most 1.5
        2: [1.0, 3.0, 0.5, 0.5],  # a single first evaluation does not count
        3: [1.5, 1.5, 9.0, 9.0],  # equal to the target
        4: [9.0, 9.0, 9.0, 1.0],  # a single last evaluation does not count
    }
    epochs = {0: 2.5, 1: math.nan, 2: 2.6, 3: 1.0, 4: math.nan}
    assert hits(runs, 1.5, higher=False) == pytest.approx(epochs, nan_ok=True)
    whole = {0: 3.0, 1: math.nan, 2: 3.0, 3: 1.0, 4: math.nan}
    assert hits(runs, 1.5, higher=False, whole=True) == pytest.approx(whole, nan_ok=True)
    time = time_to_target(runs, 1.5, higher=False)
    assert (time.hits, time.n, time.median) == (3, 5, pytest.approx(2.6))
    assert hits(runs, -math.inf, higher=False) == pytest.approx(
        dict.fromkeys(runs, math.nan), nan_ok=True
    )
