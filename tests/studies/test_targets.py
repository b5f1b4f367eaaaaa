"""The epoch at which a run reaches a target, and the Kaplan-Meier median over runs."""

import math

import numpy as np
import pandas as pd
import pytest

from studies.harness.evidence.targets import curves
from studies.harness.statistics.times import hit, median_time, time_to_target


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
    assert (treated.hits, treated.n, treated.median, treated.ci_lo) == (9, 21, 23.0, 13.0)
    assert math.isnan(treated.ci_hi)
    placebo = median_time(PLACEBO, [True] * 21)
    assert (placebo.median, placebo.ci_lo, placebo.ci_hi) == (8.0, 4.0, 11.0)


def test_median_exists_if_half_of_the_runs_reach_the_target():
    assert median_time([3.0, 5.0, 9.0, 9.0], [True, True, False, False]).median == 5.0
    few = median_time([3.0, 9.0, 9.0], [True, False, False])
    assert (few.hits, few.n) == (1, 3) and math.isnan(few.median)
    none = median_time([9.0, 9.0], [False, False])
    assert (none.hits, none.n) == (0, 2) and math.isnan(none.median)
    assert median_time([], []).n == 0


def test_censored_run_counts_until_its_end():
    """Without the run, or with its end counted as a hit, the median would be 6 instead of 8."""
    times, observed = [2.0, 4.0, 6.0, 8.0, 10.0], [True, False, True, True, True]
    assert median_time(times, observed).median == 8.0
    assert median_time([2.0, 6.0, 8.0, 10.0], [True] * 4).median == 6.0
    assert median_time(times, [True] * 5).median == 6.0


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
    assert fast.median == pytest.approx(1.75)
    assert time_to_target(by_arm["fast"], 0.5, whole=True).median == 2.0
