"""Rates of wrong decisions on the levels of a factor, and of false warnings of outliers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from rates import Rate, cases, verify

from studies.harness.evidence.arms import skewed
from studies.harness.evidence.levels import best_level, equal

ACCURACY, LOSS = "test/accuracy", "test/loss"


def unstable(rng: np.random.Generator, tables: int, seeds: int, failures: int) -> np.ndarray:
    """Return tables [tables, seeds, 4] in which level 0 fails on its hardest seeds.

    On the other seeds it is worse than level 1. Levels 2 and 3 are worse by about 10 SDs.
    """
    values = rng.normal(size=(tables, seeds, 1)) + 0.1 * rng.normal(size=(tables, seeds, 4))
    values[..., 0] = values[..., 1] - 0.05 - 0.1 * rng.exponential(size=(tables, seeds))
    values[..., 2:] -= 1.0
    hardest = np.argsort(values[..., 0], axis=1)[:, :failures]
    np.put_along_axis(values[..., 0], hardest, -np.inf, axis=1)
    return values


def decisions(values: np.ndarray, decide: Callable[[pd.DataFrame], bool]) -> np.ndarray:
    """Return a decision on each table [tables, seeds, arms]."""
    return np.array([decide(pd.DataFrame(table)) for table in values])


def called_best(rng, tables, seeds, failures):
    """The level that fails is called the best level."""
    values = unstable(rng, tables, seeds, failures)
    return decisions(values, lambda table: best_level(table, ACCURACY) == 0)


def called_equal(rng, tables, seeds):
    """The losses of two levels differ by the margin of 5%, and the levels are called equal."""
    base = 2.0 + 0.1 * rng.normal(size=(tables, seeds))
    arm = 1.05 * base + 0.02 * rng.normal(size=(tables, seeds))
    return decisions(np.stack([base, arm], axis=-1), lambda table: equal(table, LOSS))


def called_skewed(rng, tables, seeds, arms):
    """An arm of a table of normal results is said to have an outlier."""
    return decisions(rng.normal(size=(tables, seeds, arms)), lambda table: bool(skewed(table)))


RATES = [
    *(
        Rate(
            "best level",
            "fails on hard seeds and is worse",
            f"{seeds} seeds, {failures} failures",
            partial(called_best, seeds=seeds, failures=failures),
            nominal=0.0,
            small=250 if seeds == 5 else 0,
        )
        for seeds, failures in ((3, 1), (5, 1), (5, 2), (10, 3))
    ),
    *(
        Rate(
            "levels equal within 5%",
            "normal",
            f"{seeds} seeds",
            partial(called_equal, seeds=seeds),
            small=500 if seeds == 5 else 0,
        )
        for seeds in (3, 5, 10)
    ),
    *(
        Rate(
            "outlier",
            "normal",
            f"{arms} arms, {seeds} seeds",
            partial(called_skewed, seeds=seeds, arms=arms),
            limit=0.06,
            small=250 if (seeds, arms) == (3, 10) else 0,
        )
        for seeds in (3, 5, 10)
        for arms in (2, 10, 36)
    ),
]


@pytest.mark.parametrize(("rate", "full"), cases(RATES))
def test_rate_of_errors(rate, full):
    verify(rate, full)


def test_mean_of_the_completed_trials_would_choose_the_level_that_fails():
    """Show that the tables of `unstable` are hard: a rule that drops failures is nearly always wrong."""
    values = unstable(np.random.default_rng(0), 1000, 5, 2)
    survivors = np.where(np.isinf(values), np.nan, values)
    assert np.mean(np.nanmean(survivors, axis=1).argmax(axis=-1) == 0) > 0.9
