import math

import numpy as np
import pandas as pd
import pytest

from studies.harness.evidence.targets import curves
from studies.harness.statistics.times import hit, median_time, time_to_target


def test_known_hitting_times_are_recovered():
    """Curves that rise in a straight line and cross 0.5 at a known time."""
    rng = np.random.default_rng(0)
    for crossing in rng.uniform(1.5, 9.0, size=50):
        curve = 0.5 + 0.03 * (np.arange(1, 13) - crossing)
        assert hit(curve, 0.5) == pytest.approx(crossing)
        assert hit(curve, 0.5, interpolate=False) == math.ceil(crossing)
        assert hit(-curve, -0.5, higher=False) == pytest.approx(crossing)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.9, 0.1, 0.9, 0.9], 2 + 0.4 / 0.8),  # a lucky first evaluation is no hit
        ([0.1, 0.2, 0.9], math.nan),  # nor is one at the end, which nothing confirms
        ([0.6, 0.7], 1.0),  # nothing before it to interpolate from
        ([0.1, math.nan, 0.7, 0.7], 3.0),
        ([0.1, 0.7, math.nan, 0.7], math.nan),
        ([0.1, 0.2], math.nan),
        ([0.5, 0.5], 1.0),
        ([], math.nan),
    ],
)
def test_a_hit_takes_two_in_a_row(curve, expected):
    assert hit(curve, 0.5) == pytest.approx(expected, nan_ok=True)


# Freireich et al. 1963, remission under 6-MP and placebo in weeks, as in every textbook.
SIX_MP = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def test_kaplan_meier_median_and_interval_are_the_textbooks():
    treated = median_time(SIX_MP, [bool(x) for x in RELAPSED])
    assert (treated.hits, treated.n, treated.median, treated.ci_lo) == (9, 21, 23.0, 13.0)
    assert math.isnan(treated.ci_hi)
    placebo = median_time(PLACEBO, [True] * 21)
    assert (placebo.median, placebo.ci_lo, placebo.ci_hi) == (8.0, 4.0, 11.0)


def test_half_that_hit_have_a_median_and_fewer_have_none():
    assert median_time([3.0, 5.0, 9.0, 9.0], [True, True, False, False]).median == 5.0
    few = median_time([3.0, 9.0, 9.0], [True, False, False])
    assert (few.hits, few.n) == (1, 3) and math.isnan(few.median)
    none = median_time([9.0, 9.0], [False, False])
    assert (none.hits, none.n) == (0, 2) and math.isnan(none.median)
    assert median_time([], []).n == 0


def test_a_censored_run_counts_until_its_end():
    """Leaving it out, or taking its end for a hit, gives another median."""
    times, observed = [2.0, 4.0, 6.0, 8.0, 10.0], [True, False, True, True, True]
    assert median_time(times, observed).median == 8.0
    assert median_time([2.0, 6.0, 8.0, 10.0], [True] * 4).median == 6.0
    assert median_time(times, [True] * 5).median == 6.0


def test_arms_of_a_frame():
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
    early = {
        "arm": "slow",
        "seed": 2,
        "trial_key": "z",
        "status": "diverged",
    }  # before its first epoch ended
    trials = [row for row in rows if not row["epoch"]] + [early]
    trials += [{**rows[0], "seed": 3, "trial_key": "x", "status": "in flight"}]
    found = curves(pd.DataFrame(trials), pd.DataFrame(rows), "a")
    assert {arm: list(seeds) for arm, seeds in found.items()} == {"fast": [0, 1], "slow": [0, 1, 2]}
    fast, slow = (time_to_target(found[arm], 0.5) for arm in ("fast", "slow"))
    assert (fast.hits, fast.n, slow.hits, slow.n) == (2, 2, 1, 3)
    assert (
        fast.median == pytest.approx(1.75)
        and time_to_target(found["fast"], 0.5, whole=True).median == 2.0
    )
