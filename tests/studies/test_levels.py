import numpy as np
import pandas as pd
import pytest

from studies.harness.evidence import levels
from studies.harness.evidence.arms import by_seed
from studies.harness.evidence.levels import EDGE, FLAT, INSIDE, UNDECIDED, next_level

METRIC = "test/accuracy"


def frame(factor, levels, means, sd=0.0005, optimizer="nysact-s", seeds=5):
    noise = np.random.default_rng(0).normal(size=(len(levels), seeds)) * sd
    rows = [
        {
            "arm": f"{factor}={level}",
            "optimizer": optimizer,
            factor: level,
            "seed": seed,
            "status": "completed",
            "as_released": False,
        }
        | {METRIC: means[i] + noise[i, seed]}
        for i, level in enumerate(levels)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def level_verdicts(table, metric):
    return levels.level_verdicts(table, by_seed(table, metric), metric)


@pytest.mark.parametrize(
    ("means", "sd", "verdict", "best", "suggestion"),
    [
        ([0.90, 0.901, 0.90, 0.9005], 0.0005, FLAT, 10, None),
        ([0.90, 0.92, 0.94, 0.96], 0.0005, EDGE, 20, 25),
        ([0.96, 0.94, 0.92, 0.90], 0.0005, EDGE, 5, None),  # rank 0 is not allowed
        ([0.90, 0.96, 0.94, 0.92], 0.0005, INSIDE, 10, None),
        ([0.90, 0.91, 0.90, 0.91], 0.05, UNDECIDED, None, None),
    ],
)
def test_verdicts(means, sd, verdict, best, suggestion):
    (found,) = level_verdicts(frame("rank", [5, 10, 15, 20], means, sd), METRIC)
    assert (found.optimizer, found.factor, found.verdict) == ("nysact-s", "rank", verdict)
    assert best in (None, found.best) and found.suggestion == suggestion
    assert found.best in found.tied


def test_levels_come_in_numerical_order_and_a_loss_is_best_small():
    table = frame("lr", [1.0, 0.001, 0.1, 0.01], [0.2, 0.9, 0.5, 0.7])
    (found,) = level_verdicts(table.rename(columns={METRIC: "test/loss"}), "test/loss")
    assert found.levels == (0.001, 0.01, 0.1, 1.0)
    assert (found.best, found.verdict, found.suggestion) == (1.0, EDGE, 10.0)


def test_each_optimizer_and_setting_of_other_factors_has_its_own_verdict():
    one = frame("rank", [5, 10], [0.9, 0.9]).assign(shift="tropp")
    other = frame("rank", [5, 10], [0.8, 0.9]).assign(
        shift="official", arm=lambda t: t["arm"] + "o"
    )
    table = pd.concat([one, other])[
        ["arm", "optimizer", "rank", "shift", "seed", "as_released", "status", METRIC]
    ]
    found = {(v.factor, v.setting): v.verdict for v in level_verdicts(table, METRIC)}
    assert found == {
        ("rank", "shift=tropp"): FLAT,
        ("rank", "shift=official"): UNDECIDED,
        ("shift", "rank=5"): UNDECIDED,
        ("shift", "rank=10"): FLAT,
    }


@pytest.mark.parametrize(
    ("levels", "edge", "expected"),
    [
        ([0.01, 0.03, 0.1], 0.1, 0.33),
        ([0.001, 0.01, 0.1], 0.001, 0.0001),
        ([5, 10, 15, 20], 20, 25),
        ([64, 128, 256, 512], 512, 1024),
        ([0.8, 0.9, 0.95], 0.95, 1.0),
    ],
)
def test_the_next_level_continues_the_grid(levels, edge, expected):
    assert next_level(levels, edge, lambda level: True) == expected
    assert type(next_level(levels, edge, lambda level: True)) is type(levels[0])
    assert next_level(levels, edge, lambda level: False) is None


def test_levels_without_two_seeds_are_not_judged():
    (found,) = level_verdicts(frame("rank", [5, 10], [0.9, 0.8], seeds=1), METRIC)
    assert (found.levels, found.best, found.verdict) == ((), None, UNDECIDED)
