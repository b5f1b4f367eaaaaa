"""Verdicts on a factor's levels: equivalent, best inside the grid or at its edge, inconclusive."""

import numpy as np
import pandas as pd
import pytest

from studies.harness.evidence import levels
from studies.harness.evidence.arms import by_seed
from studies.harness.evidence.levels import EDGE, EQUIVALENT, INCONCLUSIVE, INSIDE, next_level

METRIC = "test/accuracy"


def frame(factor, levels, means, sd=0.0005, optimizer="nysact-s", seeds=5):
    """Return a ledger frame with noise of standard deviation `sd` around the mean of each level."""
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
        ([0.90, 0.901, 0.90, 0.9005], 0.0005, EQUIVALENT, 10, None),
        ([0.90, 0.92, 0.94, 0.96], 0.0005, EDGE, 20, 25),
        ([0.96, 0.94, 0.92, 0.90], 0.0005, EDGE, 5, None),  # rank 0 is not allowed
        ([0.90, 0.96, 0.94, 0.92], 0.0005, INSIDE, 10, None),
        ([0.90, 0.91, 0.90, 0.91], 0.05, INCONCLUSIVE, None, None),
    ],
)
def test_verdict_best_level_and_suggestion_follow_from_the_means(
    means, sd, verdict, best, suggestion
):
    (result,) = level_verdicts(frame("rank", [5, 10, 15, 20], means, sd), METRIC)
    assert (result.optimizer, result.factor, result.verdict) == ("nysact-s", "rank", verdict)
    assert best in (None, result.best) and result.suggestion == suggestion
    assert result.best in result.tied


def test_levels_are_sorted_and_a_smaller_loss_is_better():
    table = frame("lr", [1.0, 0.001, 0.1, 0.01], [0.2, 0.9, 0.5, 0.7])
    (verdict,) = level_verdicts(table.rename(columns={METRIC: "test/loss"}), "test/loss")
    assert verdict.levels == (0.001, 0.01, 0.1, 1.0)
    assert (verdict.best, verdict.verdict, verdict.suggestion) == (1.0, EDGE, 10.0)


def test_each_combination_of_the_other_factors_has_a_verdict():
    tropp = frame("rank", [5, 10], [0.9, 0.9]).assign(shift="tropp")
    official = frame("rank", [5, 10], [0.8, 0.9]).assign(shift="official")
    official["arm"] += " official"
    columns = ["arm", "optimizer", "rank", "shift", "seed", "as_released", "status", METRIC]
    table = pd.concat([tropp, official])[columns]
    verdicts = {(v.factor, v.setting): v.verdict for v in level_verdicts(table, METRIC)}
    assert verdicts == {
        ("rank", "shift=tropp"): EQUIVALENT,
        ("rank", "shift=official"): INCONCLUSIVE,
        ("shift", "rank=5"): INCONCLUSIVE,
        ("shift", "rank=10"): EQUIVALENT,
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
def test_next_level_continues_the_grid(levels, edge, expected):
    assert next_level(levels, edge, lambda level: True) == expected
    assert type(next_level(levels, edge, lambda level: True)) is type(levels[0])
    assert next_level(levels, edge, lambda level: False) is None


def test_levels_with_one_seed_are_inconclusive():
    (verdict,) = level_verdicts(frame("rank", [5, 10], [0.9, 0.8], seeds=1), METRIC)
    assert (verdict.levels, verdict.best, verdict.verdict) == ((), None, INCONCLUSIVE)
