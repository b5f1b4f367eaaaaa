import itertools
import math

import numpy as np
import pytest

from studies.harness.statistics.budgets import best_of_k, overtakes, shrinkage

SCORES = [0.4, 0.9, 0.1, 0.7, 0.7, 0.3, 0.8]


def brute_force(scores, k, higher):
    """Mean, 5%, 50% and 95% quantile of the best over all draws of k that have a score, and the share without one."""
    draws = [[s for s in draw if not math.isnan(s)] for draw in itertools.combinations(scores, k)]
    best = [(max if higher else min)(draw) for draw in draws if draw]
    if not best:
        return [math.nan] * 4 + [1.0]
    quantiles = np.quantile(best, [0.05, 0.5, 0.95], method="inverted_cdf")
    return [np.mean(best), *quantiles, 1 - len(best) / len(draws)]


@pytest.mark.parametrize(
    "scores", [SCORES, [*SCORES, math.nan, math.nan], [math.nan, math.nan, 0.5]]
)
def test_best_of_k_is_brute_force(scores):
    curve = best_of_k(scores)
    assert list(curve["k"]) == list(range(1, len(scores) + 1))
    for k, row in zip(curve["k"], curve.to_numpy(), strict=True):
        assert row[1:] == pytest.approx(brute_force(scores, k, True), nan_ok=True)


def test_a_smaller_loss_mirrors_a_larger_score():
    up, down = best_of_k(SCORES), best_of_k([-score for score in SCORES], higher=False)
    assert list(down["mean"]) == pytest.approx(list(-up["mean"]))
    assert list(down["lo"]) == list(-up["hi"]) and list(down["hi"]) == list(-up["lo"])
    assert list(down["median"]) == list(-up["median"])


def test_curve_rises_to_the_best_and_stays_exact_at_many_trials():
    scores = np.random.default_rng(0).normal(size=300)
    curve = best_of_k(scores)
    assert (np.diff(curve["mean"]) > 0).all()
    assert curve["mean"].iloc[-1] == scores.max() and curve["mean"].iloc[0] == pytest.approx(
        scores.mean()
    )
    assert (curve["lo"] <= curve["median"]).all() and (curve["median"] <= curve["hi"]).all()
    assert (np.diff(curve[["lo", "median", "hi"]], axis=0) >= 0).all()


def test_equal_configurations_flatter_their_best_as_product_md_says():
    """1.87 seed-SDs at 20 configurations: the number that the selection guard is there for."""
    samples = np.random.default_rng(1).normal(size=(20_000, 20)).max(axis=1)
    assert samples.mean() == pytest.approx(1.867, abs=0.02)
    curve = best_of_k(np.random.default_rng(2).normal(size=2000))
    assert curve["mean"][19] == pytest.approx(1.867, abs=0.12)


def test_the_budget_at_which_one_overtakes_another():
    steady, wild = best_of_k([0.5, 0.5, 0.5, 0.5]), best_of_k([0.1, 0.2, 0.3, 0.9])
    assert overtakes(wild, steady) == 2 and overtakes(steady, wild) is None
    assert overtakes(wild, best_of_k([0.0] * 6)) == 1
    assert overtakes(steady, steady) is None
    assert (
        overtakes(
            best_of_k([1.0, 2.0], higher=False), best_of_k([1.5, 1.5], higher=False), higher=False
        )
        == 2
    )


def test_shrinkage_is_what_fresh_seeds_take_back():
    result = shrinkage(0.95, [0.93, 0.92, 0.94])
    assert result.shrinkage == pytest.approx(0.02) and result.fresh.n == 3
    assert (
        result.ci_lo == pytest.approx(0.95 - result.fresh.ci_hi) and result.ci_hi > result.shrinkage
    )
    assert math.isnan(shrinkage(0.95, [0.93]).ci_lo)
