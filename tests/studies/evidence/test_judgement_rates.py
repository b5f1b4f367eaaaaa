"""Rates of wrong judgements of equal optimizers, and the number of seeds that effects need."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from rates import Rate, cases, verify
from scipy import stats
from tables import STEP, accuracies

from studies.harness.evidence.judgement import Rules, judge
from studies.harness.evidence.scale import Scale
from studies.harness.statistics.paired import ALPHA, holm
from studies.harness.statistics.sequential import (
    PILOT,
    SKEWED,
    evidence,
    share_of_error,
    sign_process,
    t_process,
)

LOOKS = 30


def first_signs(gains, step):
    """Return `first_sign` of each stream: gains [streams, n] -> [streams]."""
    first = np.isinf(gains).argmax(axis=-1)
    first = np.where(np.isinf(gains).any(axis=-1), first, gains.shape[-1])
    for n in range(PILOT, gains.shape[-1]):
        rest = np.flatnonzero(first > n)
        early = gains[rest, :n]
        spread = early.std(axis=-1, ddof=1)
        varied = spread > 1e-9 * np.abs(early).max(axis=-1)
        rest, early, spread = rest[varied], early[varied], spread[varied]
        if len(rest):
            skewed = stats.skewtest(early, axis=-1).pvalue < SKEWED
            first[rest[skewed | (spread < step)]] = n
    return first


def two_sided(gains, step=0.0):
    """Return the two-sided e-process of each stream: [streams, n] -> [streams, n]."""
    first, sides = first_signs(gains, step), []
    for side in (gains, -gains):
        e = np.ones_like(gains)
        for n in np.unique(first):
            rows = first == n
            if n:
                e[rows, :n] = t_process(side[rows, :n], step)
            last = e[rows, n - 1 : n] if n else 1.0
            e[rows, n:] = last * sign_process(side[rows, n:])
        sides.append(e)
    return np.mean(sides, axis=0)


def diverging(rng, size):
    """Return normal results of which 10% have diverged."""
    return np.where(rng.random(size) < 0.1, -np.inf, rng.normal(size=size))


def gains_of(results):
    """Return the gains of the first of two results: [..., 2] -> [...]."""
    candidate, baseline = results[..., 0], results[..., 1]
    with np.errstate(invalid="ignore"):
        return np.where(candidate == baseline, 0.0, candidate - baseline)


NULLS = {  # gains whose distribution is symmetric about 0, and the step of the metric
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "accuracy 97%": (lambda rng, size: gains_of(accuracies(rng, (*size, 2), 0.97)), STEP),
    "accuracy 99.8%": (lambda rng, size: gains_of(accuracies(rng, (*size, 2), 0.998)), STEP),
    "t with 3 degrees of freedom": (lambda rng, size: rng.standard_t(3, size), 0.0),
    "Cauchy": (lambda rng, size: rng.standard_cauchy(size), 0.0),
    "10% diverge": (lambda rng, size: gains_of(diverging(rng, (*size, 2))), 0.0),
}
SKEWED_NULLS = {  # gains with a mean of 0 that are not symmetric, and the documented rates
    "lognormal, skewness 1.8": (lambda rng, size: lognormal(rng, size, 0.5), 0.06),
    "exponential": (lambda rng, size: rng.exponential(size=size) - 1, 0.115),
    "lognormal, skewness 6.2": (lambda rng, size: lognormal(rng, size, 1.0), 0.20),
}


def lognormal(rng, size, sd):
    return np.exp(sd * rng.normal(size=size)) - np.exp(sd**2 / 2)


def any_decision(rng, tables, sample, step=0.0):
    """A candidate that equals the baseline is called better or worse after some seed."""
    return (two_sided(sample(rng, (tables, LOOKS)), step) >= 2 / ALPHA).any(axis=-1)


def at_once(rng, tables, candidates):
    """Several equal candidates share the seeds of a baseline; one is called better or worse."""
    results = rng.normal(size=(tables, LOOKS, candidates + 1))
    gains = (results[..., 1:] - results[..., :1]).swapaxes(1, 2).reshape(-1, LOOKS)
    e = np.maximum(1, two_sided(gains).max(axis=-1)).reshape(tables, candidates)
    return (e >= candidates / (ALPHA * share_of_error(0, candidates))).any(axis=-1)


def in_a_row(rng, tables, candidates, kind):
    """Candidates are judged one after the other against one baseline; some decision is wrong."""
    if kind == "normal":
        results, step = rng.normal(size=(tables, LOOKS, candidates + 1)), 0.0
    else:
        results, step = accuracies(rng, (tables, LOOKS, candidates + 1), 0.97), STEP
    gains = (results[..., 1:] - results[..., :1]).swapaxes(1, 2).reshape(-1, LOOKS)
    e = two_sided(gains, step).max(axis=-1).reshape(tables, candidates)
    thresholds = 1 / (ALPHA * np.array([share_of_error(before) for before in range(candidates)]))
    return (e >= thresholds).any(axis=-1)


RATES = [
    *(
        Rate(
            "judgement, first attempt",
            kind,
            "30 looks",
            partial(any_decision, sample=sample, step=step),
            ALPHA / 2,
            small=2000,
        )
        for kind, (sample, step) in NULLS.items()
    ),
    *(
        Rate(
            "judgement, first attempt",
            kind,
            "30 looks",
            partial(any_decision, sample=sample),
            ALPHA / 2,
            limit=limit,
        )
        for kind, (sample, limit) in SKEWED_NULLS.items()
    ),
    *(
        Rate(
            "judgements of 50 candidates in a row",
            kind,
            "30 looks",
            partial(in_a_row, candidates=50, kind=kind),
            small=400 if kind == "normal" else 0,
        )
        for kind in ("normal", "accuracy 97%")
    ),
    Rate(
        "judgement of 10 candidates at once",
        "normal",
        "30 looks",
        partial(at_once, candidates=10),
        share_of_error(0, 10) * ALPHA,
        small=400,
    ),
]


@pytest.mark.parametrize(("rate", "full"), cases(RATES))
def test_rate_of_errors(rate, full):
    verify(rate, full)


# ------------------------------------------------------------------------------ consistency


@pytest.mark.parametrize("kind", [*NULLS, *SKEWED_NULLS])
def test_simulated_e_processes_are_those_of_the_judgement(kind):
    sample, step = (*NULLS.get(kind, ()), *SKEWED_NULLS.get(kind, ()))[:2]
    step = step if kind in NULLS else 0.0
    gains = sample(np.random.default_rng(0), (6, LOOKS))
    expected = [evidence(stream, step).two_sided for stream in gains]
    assert two_sided(gains, step) == pytest.approx(np.array(expected))


def test_ten_candidates_are_judged_as_holms_method_says():
    """Half of the candidates have an effect of two SDs."""
    gains = np.random.default_rng(4).normal(size=(10, LOOKS)) + 2 * (np.arange(10) < 5)[:, None]
    table = pd.DataFrame({f"c{k}": -row for k, row in enumerate(gains)}).assign(base=0.0)
    scale = Scale("digits/autoencoder", "test/mse", ratio=False)
    names = [f"c{k}" for k in range(10)]
    verdicts = judge({scale: table}, names, "base", Rules())
    p = np.array([evidence(row).p[-1] for row in gains])
    assert [v.decision == "better" for v in verdicts] == list(
        holm(p) <= ALPHA * share_of_error(0, 10)
    )


# ------------------------------------------------------------------------------ power

SEEDS = {  # the largest accepted median of the number of seeds, at 5% and at 2.5%
    1.0: (13, 15),
    1.5: (8, 9),
    2.0: (7, 7),
    3.0: (6, 6),
}


@pytest.mark.parametrize("effect", SEEDS)
def test_median_number_of_seeds(effect):
    e = two_sided(np.random.default_rng(1).normal(size=(1000, 40)) + effect)
    for level, limit in zip((ALPHA, ALPHA / 2), SEEDS[effect], strict=True):
        reached = e >= 1 / level
        seeds = np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, 99)
        assert np.median(seeds) <= limit
