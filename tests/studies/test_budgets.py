"""Scores of the best of k trials, and the shrinkage of a winner's score with fresh seeds."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from studies.harness.kinds.search.report import _budgets
from studies.harness.report.document import Text
from studies.harness.statistics.budgets import Lead, best_of_k, overtakes, shrinkage

SCORES = [0.4, 0.9, 0.1, 0.7, 0.7, 0.3, 0.8]


def brute_force(scores, k, higher):
    """Compute a row of `best_of_k` from all draws of k scores.

    The values are the mean and three quantiles of the best score, and the share of draws in which
    no trial has a score.
    """
    draws = [[s for s in draw if not math.isnan(s)] for draw in itertools.combinations(scores, k)]
    best = [(max if higher else min)(draw) for draw in draws if draw]
    if not best:
        return [math.nan] * 4 + [1.0]
    quantiles = np.quantile(best, [0.05, 0.5, 0.95], method="inverted_cdf")
    return [np.mean(best), *quantiles, 1 - len(best) / len(draws)]


@pytest.mark.parametrize(
    "scores", [SCORES, [*SCORES, math.nan, math.nan], [math.nan, math.nan, 0.5]]
)
def test_best_of_k_equals_brute_force(scores):
    curve = best_of_k(scores)
    assert list(curve["k"]) == list(range(1, len(scores) + 1))
    for k, row in zip(curve["k"], curve.to_numpy(), strict=True):
        assert row[1:] == pytest.approx(brute_force(scores, k, True), nan_ok=True)


def test_best_of_k_with_smaller_is_better_mirrors_larger_is_better():
    up, down = best_of_k(SCORES), best_of_k([-score for score in SCORES], higher=False)
    assert list(down["mean"]) == pytest.approx(list(-up["mean"]))
    assert list(down["lo"]) == list(-up["hi"]) and list(down["hi"]) == list(-up["lo"])
    assert list(down["median"]) == list(-up["median"])


def test_best_of_k_increases_from_the_mean_to_the_best_score():
    scores = np.random.default_rng(0).normal(size=300)
    curve = best_of_k(scores)
    assert (np.diff(curve["mean"]) > 0).all()
    assert curve["mean"].iloc[-1] == scores.max()
    assert curve["mean"].iloc[0] == pytest.approx(scores.mean())
    assert (curve["lo"] <= curve["median"]).all() and (curve["median"] <= curve["hi"]).all()
    assert (np.diff(curve[["lo", "median", "hi"]], axis=0) >= 0).all()


def test_best_of_20_equal_configurations_is_biased_by_1_87_standard_deviations():
    """Because of this bias, a search trains its winners again with fresh seeds."""
    samples = np.random.default_rng(1).normal(size=(20_000, 20)).max(axis=1)
    assert samples.mean() == pytest.approx(1.867, abs=0.02)
    curve = best_of_k(np.random.default_rng(2).normal(size=2000))
    assert curve["mean"][19] == pytest.approx(1.867, abs=0.12)


def test_overtakes_returns_the_smallest_k_from_which_a_curve_stays_better():
    constant, variable = [0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.9]
    assert overtakes(variable, constant) == Lead(2, None) and overtakes(constant, variable) is None
    assert overtakes(variable, [0.0] * 6) == Lead(1, 1)
    assert overtakes(constant, constant) is None
    assert overtakes([1.0, 2.0], [1.5, 1.5], higher=False) == Lead(2, None)


def test_large_lead_is_certain_from_the_first_k_on():
    """Of the 184,756 assignments of 20 scores to two optimizers, two have a gap of this size."""
    low, high = list(np.arange(10.0)), list(np.arange(100.0, 110.0))
    assert overtakes(high, low) == Lead(1, 1)
    assert overtakes(low, high, higher=False) == Lead(1, 1)
    assert overtakes(high[:3], low[:3]) == Lead(1, None)  # 2 of 20 assignments
    assert overtakes(high, low, tests=1000) == Lead(1, None)  # 10,000 draws are too few to show it
    assert overtakes(high, low) == overtakes(high, low)


def test_optimizer_that_fails_more_often_is_not_better():
    """Its only score is the best. The mean is over the draws with a score, so it is always ahead."""
    risky, safe = [math.nan] * 9 + [1.0], [0.5] * 10
    assert overtakes(risky, safe) == Lead(10, None)
    assert overtakes(safe, risky) is None
    assert overtakes([math.nan] * 5, [math.nan] * 5) is None


def test_report_states_if_a_lead_is_certain():
    search = SimpleNamespace(sampler="random", asha=False)
    plan = SimpleNamespace(artefact=search, higher=True, score="val/accuracy")
    scores = {
        "sgd": [0.1 + 0.01 * i for i in range(10)],
        "foof": [0.8 + 0.01 * i for i in range(10)],
        "kfac": [0.85] * 9 + [0.95],
    }
    results: Any = SimpleNamespace(plan=plan, scores=scores, winners=scores)
    text = _budgets(results)[1]
    assert isinstance(text, Text)
    assert text.items == (
        "`foof` has a higher expected best than `sgd` at every k; the lead is significant at every k.",
        "`kfac` has a higher expected best than `sgd` at every k; the lead is significant at every k.",
        "`kfac` has a higher expected best than `foof` at every k; this is not certain, because the "
        "lead is not significant at the largest k.",
    )
    assert "corrected over 3 pairs of optimizers" in text.text


def test_shrinkage_is_the_score_minus_the_mean_of_fresh_seeds():
    result = shrinkage(0.95, [0.93, 0.92, 0.94])
    assert result.shrinkage == pytest.approx(0.02) and result.fresh.n == 3
    assert result.ci_lo == pytest.approx(0.95 - result.fresh.ci_hi)
    assert result.ci_hi > result.shrinkage
    assert math.isnan(shrinkage(0.95, [0.93]).ci_lo)
