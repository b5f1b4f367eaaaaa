"""Rates of wrong decisions on tables without a difference, and the power to find differences."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from rates import Rate, cases, verify
from scipy import stats
from tables import STEP, accuracies, failing, noisy

from studies.harness.statistics.intervals import UNBOUNDED, mean_interval, summarize
from studies.harness.statistics.many import all_pairs_p
from studies.harness.statistics.paired import ALPHA, holm, mean_test, moments, rank_p
from studies.harness.statistics.sequential import sign_process, t_process

HIGH = (0.95, 0.985, 0.9995)
SEEDS = (3, 5, 10)
LOOKS = 30


def gains(rng, tables, seeds, kind):
    """Return [tables, seeds] gains of two equal arms, and the step of the metric."""
    if isinstance(kind, float):
        return np.diff(accuracies(rng, (tables, seeds, 2), kind))[..., 0], STEP
    return np.diff(noisy(rng, (tables, seeds, 2), kind, shared=0.5))[..., 0], 0.0


def name(kind: str | float) -> str:
    return kind if isinstance(kind, str) else f"accuracy {100 * kind:g}%"


# ------------------------------------------------------------------------------ two arms


def two_sided(rng, tables, seeds, kind):
    """Two equal arms are called different."""
    test = mean_test(*gains(rng, tables, seeds, kind))
    return 2 * np.minimum(test.p_greater, test.p_less) <= ALPHA


def not_worse(rng, tables, seeds, kind):
    """The true mean gain is -margin, and the arm is called not worse by the margin."""
    if isinstance(kind, str):
        return 2 * mean_test(gains(rng, tables, seeds, kind)[0]).p_greater <= ALPHA
    base, arm = (accuracies(rng, (tables, seeds, 1), kind - loss)[..., 0] for loss in (0, 0.003))
    return 2 * mean_test(arm - base + 0.003, STEP).p_greater <= ALPHA


def equivalent(rng, tables, seeds, margin):
    """The true mean gain is the margin (in SDs of the gains), and the arms are called equal."""
    sample = rng.normal(size=(tables, seeds)) + margin
    low, high = mean_test(sample + margin), mean_test(sample - margin)
    return 2 * np.maximum(low.p_greater, high.p_less) <= ALPHA


def ranks(rng, tables, seeds, failures, shared):
    """Two equal arms that fail with the same probability are called different."""
    values = failing(rng, (tables, seeds, 2), failures, shared)
    p = np.array([rank_p(arm, base, higher=True) for arm, base in values.transpose(0, 2, 1)])
    return 2 * p.min(axis=-1) <= ALPHA


TWO = [
    Rate(
        "two arms differ",
        name(kind),
        f"{n} seeds",
        partial(two_sided, seeds=n, kind=kind),
        small=2000 if n == 5 else 0,
    )
    for kind in ("normal", "exponential", "collapsing", *HIGH)
    for n in SEEDS
]
MARGINS = [
    Rate("not worse", name(kind), f"{n} seeds", partial(not_worse, seeds=n, kind=kind), 0.025)
    for kind in ("normal", 0.95, 0.985)
    for n in SEEDS
] + [
    Rate("equivalent", "normal", f"{n} seeds", partial(equivalent, seeds=n, margin=2), 0.025)
    for n in SEEDS
]
RANKS = [
    Rate(
        "rank test",
        f"{failures:.0%} failures",
        f"{n} seeds, {shared:.0%} shared",
        partial(ranks, seeds=n, failures=failures, shared=shared),
        small=500 if (n, failures) == (5, 0.3) else 0,
    )
    for failures in (0.1, 0.3, 0.6)
    for n in (5, 10)
    for shared in (0.0, 0.5)
]


# ------------------------------------------------------------------------------ all pairs


def any_pair(rng, tables, arms, seeds, kind, shared):
    """Some pair of equal arms is called different."""
    size = (tables, seeds, arms)
    if isinstance(kind, float):
        p = all_pairs_p(accuracies(rng, size, kind), STEP)
    elif "failures" in kind:
        p = all_pairs_p(failing(rng, size, float(kind.split("%")[0]) / 100, shared))
    else:
        p = all_pairs_p(noisy(rng, size, kind, shared))
    return (p <= ALPHA).any(axis=-1)


UNEQUAL = ("variances from 1 to 8", "SDs from 1 to 8", "one SD of 8")
KINDS = [
    *((kind, shared) for kind in ("normal", *UNEQUAL) for shared in (0.0, 0.5)),
    *(("exponential", 0.5), ("collapsing", 0.5), (0.95, 0.0), (0.985, 0.0)),
    *(("10% failures", 0.5), ("30% failures", 0.0), ("60% failures", 0.5)),
]
EXCESS = {("one SD of 8", 3): 0.07, ("SDs from 1 to 8", 3): 0.06}
PAIRS = [
    Rate(
        "all pairs",
        name(kind),
        f"{arms} arms, {n} seeds, {shared:.0%} shared",
        partial(any_pair, arms=arms, seeds=n, kind=kind, shared=shared),
        limit=EXCESS.get((kind, n), 0.0),
        small=500 if (arms, n) == (14, 3) else 0,
    )
    for kind, shared in KINDS
    for arms in (4, 14, 36)
    for n in SEEDS
]


# ------------------------------------------------------------------------------ added seeds


def any_look(rng, tables, kind):
    """Two equal arms are called different at one of 30 looks."""
    sample, step = gains(rng, tables, LOOKS, kind)
    e = np.maximum(t_process(sample, step), t_process(-sample, step))
    return (e[:, 1:] >= 2 / ALPHA).any(axis=-1)


def any_look_below(rng, tables, mean):
    """The mean gain is below 0, and is called positive at one of 30 looks."""
    e = t_process(rng.normal(size=(tables, LOOKS)) + mean)
    return (e[:, 1:] >= 2 / ALPHA).any(axis=-1)


def any_sign(rng, tables, ties):
    """Positive and negative gains have the same probability, and the arms are called different."""
    signs = rng.choice([-1, 0, 1], size=(tables, LOOKS), p=[0.5 - ties / 2, ties, 0.5 - ties / 2])
    e = np.maximum(sign_process(signs), sign_process(-signs))
    return (e[:, 1:] >= 2 / ALPHA).any(axis=-1)


ADDED = [
    *(
        Rate("added seeds", name(kind), "30 looks", partial(any_look, kind=kind), small=1000)
        for kind in ("normal", "exponential", "collapsing", *HIGH)
    ),
    *(
        Rate(
            "added seeds, one side",
            "normal, mean below 0",
            f"30 looks, mean of {mean} SDs",
            partial(any_look_below, mean=mean),
            0.025,
        )
        for mean in (-0.02, -0.2)
    ),
    *(
        Rate(
            "added seeds, signs",
            "symmetric",
            f"30 looks, {ties:.0%} ties",
            partial(any_sign, ties=ties),
            small=1000,
        )
        for ties in (0.0, 0.5)
    ),
]


# ------------------------------------------------------------------------------ intervals


def misses(rng, tables, seeds, accuracy, spread):
    """The interval of the mean does not contain the expected accuracy."""
    sample = accuracies(rng, (tables, seeds, 1), accuracy, spread)[..., 0]
    summaries = [summarize(row, STEP, (0.0, 1.0)) for row in sample]
    return np.array([not s.ci_lo <= accuracy <= s.ci_hi for s in summaries])


INTERVALS = [
    Rate(
        "interval misses the mean",
        f"accuracy {100 * accuracy:g}%, {'twice the variance' if spread else 'binomial'}",
        f"{n} seeds",
        partial(misses, seeds=n, accuracy=accuracy, spread=spread),
        limit=0.08 if spread else 0.0,
        small=500 if (n, accuracy) == (5, 0.9995) else 0,
    )
    for spread in (0.0, 1.0)
    for accuracy in (0.9, 0.985, 0.995, 0.998, 0.9995)
    for n in SEEDS
]


def scaled_misses(rng, tables, seeds, kind, bounds):
    """The interval of the mean does not contain the expected value."""
    mean, sample = SCALED[kind](rng, (tables, seeds))
    n, means, sd = moments(sample)
    low, high = mean_interval(n, means, sd, bounds)
    return ~((low <= mean) & (mean <= high))


def beta(accuracy, concentration):
    """Return a function that returns an expected accuracy, and accuracies that vary by seed."""
    a, b = accuracy * concentration, (1 - accuracy) * concentration
    return lambda rng, size: (accuracy, rng.beta(a, b, size))


def lognormal(sd):
    """Return a function that returns an expected error, and errors that vary by seed."""
    return lambda rng, size: (np.exp(sd**2 / 2), np.exp(sd * rng.normal(size=size)))


# The expected value and the values by kind; the number after the expected value is the SD.
SCALED = {
    "accuracies of 90% ± 5%": beta(0.9, 30),
    "accuracies of 98% ± 2%": beta(0.98, 50),
    "accuracies of 97% ± 4%": beta(0.97, 20),
    "errors with an SD of 5%": lognormal(0.05),
    "errors with an SD of 31%": lognormal(0.3),
    "errors with an SD of 66%": lognormal(0.6),
}
MISSES = {  # the stated limits where the rate is above 5%: of the scaled and of the t-interval
    "accuracies of 90% ± 5%": (0.06, 0.07),
    "accuracies of 98% ± 2%": (0.07, 0.12),
    "accuracies of 97% ± 4%": (0.085, 0.16),
    "errors with an SD of 31%": (0.06, 0.065),
    "errors with an SD of 66%": (0.075, 0.10),
}
INTERVALS += [
    Rate(
        f"{name} misses the mean",
        kind,
        f"{n} seeds",
        partial(scaled_misses, seeds=n, kind=kind, bounds=bounds),
        limit=MISSES.get(kind, (0.0, 0.0))[column],
        small=2000 if n == 5 else 0,
    )
    for kind in SCALED
    for column, (name, bounds) in enumerate(
        (
            ("scaled interval", (0.0, 1.0) if "accuracies" in kind else (0.0, np.inf)),
            ("t-interval", UNBOUNDED),
        )
    )
    for n in SEEDS
]


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("kind", ["accuracies of 98% ± 2%", "errors with an SD of 66%"])
def test_scaled_interval_misses_a_skewed_mean_less_often_than_the_t_interval(kind, n):
    bounds = (0.0, 1.0) if "accuracies" in kind else (0.0, np.inf)
    scaled, plain = (
        scaled_misses(np.random.default_rng(3), 4000, n, kind, scale).mean()
        for scale in (bounds, UNBOUNDED)
    )
    assert scaled < plain - 0.008


@pytest.mark.parametrize(
    ("rate", "full"), cases([*TWO, *MARGINS, *RANKS, *PAIRS, *ADDED, *INTERVALS])
)
def test_rate_of_errors(rate, full):
    verify(rate, full)


# ------------------------------------------------------------------------------ power


def test_three_seeds_find_differences_among_14_arms():
    """Holm's correction of t-tests with the variance of each pair finds almost none."""
    values = noisy(np.random.default_rng(0), (300, 3, 14), "normal", shared=0.0)
    values[..., :7] += 3 * np.sqrt(2)  # three SDs of a gain
    first, second = np.triu_indices(14, 1)
    different = (first < 7) & (second >= 7)
    t = stats.ttest_rel(values[..., first], values[..., second], axis=1)
    assert (holm(t.pvalue) <= ALPHA)[:, different].mean() < 0.05
    assert (all_pairs_p(values) <= ALPHA)[:, different].mean() > 0.55


@pytest.mark.parametrize(("effect", "seeds"), [(1, 13), (1.5, 8), (2, 6), (3, 5)])
def test_median_number_of_added_seeds(effect, seeds):
    e = t_process(np.random.default_rng(1).normal(size=(2000, 60)) + effect)
    assert np.median(np.argmax(e >= 2 / ALPHA, axis=-1) + 1) <= seeds


def test_t_tests_after_each_seed_have_too_many_errors():
    sample = np.random.default_rng(2).normal(size=(1000, LOOKS))
    tests = [mean_test(sample[:, :n]) for n in range(2, LOOKS + 1)]
    p = np.min([np.minimum(test.p_greater, test.p_less) for test in tests], axis=0)
    e = np.maximum(t_process(sample), t_process(-sample))[:, 1:].max(axis=-1)
    assert (2 * p <= ALPHA).mean() > 0.2 and (e >= 2 / ALPHA).mean() < 0.035
