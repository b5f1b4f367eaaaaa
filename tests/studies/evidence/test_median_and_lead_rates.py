"""Rates of errors of the median time to a target, and of the lead of an optimizer."""

from __future__ import annotations

import math
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from rates import Rate, cases, verify

from studies.harness.statistics import budgets
from studies.harness.statistics.budgets import overtakes
from studies.harness.statistics.times import median_time

MEDIAN = math.log(2)  # of exponential times


def misses(rng, tables, runs, cap):
    """The interval of the median does not contain the true median."""
    errors = []
    for times in rng.exponential(size=(tables, runs)):
        result = median_time(np.minimum(times, cap).tolist(), (times <= cap).tolist())
        errors.append(result.ci_lo > MEDIAN or result.ci_hi < MEDIAN)  # False for nan
    return np.array(errors)


def leads(rng, tables, size):
    """Two optimizers with one distribution of scores have a certain lead."""
    samples = rng.normal(size=(tables, 2, size))
    with patch.object(budgets, "DRAWS", 999):  # for speed
        orders = [(overtakes(a, b), overtakes(b, a)) for a, b in samples]
    assert all(any(order) for order in orders)  # without a test, one optimizer always leads
    return np.array([any(lead and lead.certain for lead in order) for order in orders])


MEDIANS = [
    Rate(
        "interval misses the median time",
        "all runs reach the target" if cap == math.inf else f"{math.exp(-cap):.0%} miss the target",
        f"{runs} runs",
        partial(misses, runs=runs, cap=cap),
        small=300 if runs == 7 else 0,
    )
    for cap in (math.inf, 1.4, 0.8)
    for runs in (6, 7, 8, 10, 15, 30)
]
LEADS = [
    Rate(
        "equal optimizers have a certain lead",
        "normal scores",
        f"{size} configurations",
        partial(leads, size=size),
        small=50 if size == 8 else 0,
    )
    for size in (8, 20, 40)
]


@pytest.mark.parametrize(("rate", "full"), cases([*MEDIANS, *LEADS]))
def test_rate_of_errors_of_medians_and_leads(rate, full):
    verify(rate, full)
