"""Rates of false verdicts on published numbers.

A true replication has published and measured runs from one distribution. If the true means differ by
the margin, the verdict "reproduced" is false.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from rates import Rate, cases, verify
from tables import STEP, accuracies, noisy

from studies.harness.published.difference import half_width, of_measured, of_published
from studies.harness.published.papers import Cell
from studies.harness.published.results import orderings
from studies.harness.published.verdicts import DIFFERS, Measured, compare
from studies.harness.statistics.paired import ALPHA, kendall

KINDS = ("absent", "sd", "se", "unknown, in fact sd", "unknown, in fact se")
MARGIN = 2.0  # standard deviations


def intervals(rng, tables, spread, runs, printed, seeds, results="normal", ratio=1.0):
    """Return the differences of the means, and the half widths of their 95% and 90% intervals.

    Args:
        rng: The generator.
        tables: The number of differences.
        spread: One of `KINDS`.
        runs: The number of published runs.
        printed: The number of published runs that the paper states, or None.
        seeds: The number of measured runs.
        results: The distribution: a kind of `tables.noisy`, or an accuracy.
        ratio: The SD of the published runs, in SDs of the measured ones.
    """
    if isinstance(results, float):
        sample, step = accuracies(rng, (tables, runs + seeds, 1), results)[..., 0], STEP
    else:
        sample, step = noisy(rng, (tables, runs + seeds, 1), results, shared=0.0)[..., 0], 0.0
    published, measured = ratio * sample[:, :runs], sample[:, runs:]
    ours = of_measured(measured.std(axis=1, ddof=1), seeds, step)
    sd = None if spread == "absent" else published.std(axis=1, ddof=1)
    if sd is not None and spread.endswith("se"):
        sd = sd / np.sqrt(runs)
    theirs = of_published(sd, spread.split(",")[0], printed, ours)
    widths = [half_width(ours, theirs, level) for level in (ALPHA, 2 * ALPHA)]
    return measured.mean(axis=1) - published.mean(axis=1), *widths


def differs(rng, tables, **sample):
    """A true replication differs."""
    difference, half, _ = intervals(rng, tables, **sample)
    return np.abs(difference) > half


def reproduced(rng, tables, **sample):
    """The true means differ by the margin, and the result is called reproduced."""
    difference, _, half = intervals(rng, tables, **sample)
    return np.abs(difference + MARGIN) + half <= MARGIN


def size_of(runs, printed, seeds):
    published = f"{runs} published{' (not stated)' if printed is None else ''}"
    return f"{published}, {seeds} measured"


CELLS = [
    (spread, runs, printed, seeds)
    for spread in KINDS
    for runs in (1, 3, 5)
    for printed in (runs, None)
    for seeds in (3, 5, 10, 30)
    if runs > 1 or spread == "absent"
]
VERDICTS = [
    Rate(
        decision,
        f"normal, spread {spread}",
        size_of(runs, printed, seeds),
        partial(simulate, spread=spread, runs=runs, printed=printed, seeds=seeds),
        small=2000 if simulate is differs or seeds == 5 else 0,
    )
    for decision, simulate in (
        ("a true replication differs", differs),
        ("a difference of the margin is reproduced", reproduced),
    )
    for spread, runs, printed, seeds in CELLS
]
UNEQUAL = [
    Rate(
        "a true replication differs",
        f"published SD {ratio:g} times the measured one, spread {spread}",
        size_of(runs, runs, seeds),
        partial(differs, spread=spread, runs=runs, printed=runs, seeds=seeds, ratio=ratio),
    )
    for ratio in (0.5, 2.0)
    for spread in KINDS[1:]
    for runs in (3, 5)
    for seeds in (3, 5, 10, 30)
]
OTHER = [
    Rate(
        "a true replication differs",
        f"{results if isinstance(results, str) else f'accuracy {100 * results:g}%'}, spread absent",
        size_of(runs, runs, seeds),
        partial(differs, spread="absent", runs=runs, printed=runs, seeds=seeds, results=results),
        limit=limit,
    )
    for results, limit in ((0.95, 0.0), (0.985, 0.0), ("exponential", 0.11))
    for runs in (1, 5)
    for seeds in (3, 5, 10, 30)
]


@pytest.mark.parametrize(("rate", "full"), cases([*VERDICTS, *UNEQUAL, *OTHER]))
def test_rate_of_false_verdicts(rate, full):
    verify(rate, full)


def published_cell(optimizer, value, **changes):
    values = {
        "paper": "P",
        "table": "Table 1",
        "row": optimizer,
        "column": "c",
        "metric": "test/accuracy",
        "unit": "percent",
        "value": value,
        "outcome": None,
        "spread": None,
        "n": 1,
        "spread_kind": "unknown",
        "margin": 0.01,
        "optimizer": optimizer,
        "as_released": True,
        "protocol": {"workload": "digits/cnn"},
    }
    return Cell(**values | changes)


def results_of(optimizer, percent):
    return Measured(
        label=optimizer,
        optimizer=optimizer,
        settings={"workload": "digits/cnn"},
        metric="test/accuracy",
        values=dict(enumerate(percent / 100)),
    )


@pytest.mark.parametrize(("kind", "runs"), [("absent", 1), ("absent", 5), ("sd", 3)])
def test_verdicts_on_true_replications_rarely_differ(kind, runs):
    """If an interval of the mean has to contain the published value, 72%, 45% and 18% differ."""
    rng, tables, differing = np.random.default_rng(0), 200, 0
    for _ in range(tables):
        published, measured = 90 + rng.normal(size=runs), 90 + rng.normal(size=30)
        spread = None if kind == "absent" else float(published.std(ddof=1))
        changes = {
            "spread": spread,
            "n": runs,
            "spread_kind": "unknown" if spread is None else "sd",
        }
        cell = published_cell("sgd", float(published.mean()), **changes)
        differing += compare([cell], [results_of("sgd", measured)])[0].verdict == DIFFERS
    assert differing / tables <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / tables)


def test_order_of_equal_arms_is_rarely_significant():
    rng, tables, errors = np.random.default_rng(1), 100, 0
    names = ("sgd", "foof", "nysact-s")
    cells = [published_cell(name, 90.0 + i) for i, name in enumerate(names)]
    for _ in range(tables):
        groups = [results_of(name, 90 + rng.normal(size=5)) for name in names]
        (ordering,) = orderings(compare(cells, groups))
        errors += ordering.same + ordering.reverse > 0
    assert errors / tables <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / tables)


@pytest.mark.parametrize(("arms", "gap", "highest"), [(6, 0.3, 0.5), (14, 1.0, 0.5)])
def test_bootstrap_interval_of_tau_does_not_contain_the_true_tau(arms, gap, highest):
    """The means are in the published order, `gap` SDs apart, so that the true tau is 1.

    The mean of resampled seeds has the noise of the seeds twice. Its order is therefore less like
    the true order than the measured one is. This is why the reports have no such interval.
    """
    rng, samples, covered = np.random.default_rng(2), 100, 0
    means = gap * np.arange(arms)
    for _ in range(samples):
        values = means + rng.normal(size=(3, arms))
        drawn = values[rng.integers(3, size=(200, 3))].mean(axis=1)
        covered += np.quantile(kendall(means, drawn), 0.975) >= 1
    assert covered / samples < highest
