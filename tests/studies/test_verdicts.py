"""Verdicts on published claims, and the published and measured orders of the arms."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from folders import write_trial
from scipy import stats

from studies.harness.design.arms import Arm
from studies.harness.evidence import ledger
from studies.harness.evidence.arms import measured
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.kinds.study.study import Study
from studies.harness.published.papers import PAPERS, Claim, load
from studies.harness.published.results import orderings
from studies.harness.published.verdicts import (
    COMPATIBLE,
    DIFFERS,
    NOT_RUN,
    OTHER_PROTOCOL,
    REPRODUCED,
    Measured,
    compare,
    coverage,
    expected,
)
from studies.harness.statistics.paired import kendall
from trainables.cost.intervals import Median
from trainables.store import DIVERGED

STUDY = Study(
    workload="digits/cnn",
    name="paper",
    title="t",
    paper="P",
    table="Table 1",
    arms=[
        Arm(optimizer="sgd"),
        Arm(optimizer="foof", as_released=True),
        Arm(optimizer="nysact-s", as_released=True),
    ],
    figure=LevelFigure(factor="lr", panels=()),
    seeds=5,
)
MEANS = {"sgd": 90.0, "foof": 94.0, "nysact-s": 93.0}
# The difference of each seed from its arm's mean, in percentage points.
DEVIATIONS = [-0.1, 0.05, 0.0, 0.1, -0.05]


def claim(optimizer="sgd", value: float | None = 90.0, **changes):
    values = {
        "paper": "P",
        "table": "Table 1",
        "row": optimizer,
        "column": "first",
        "metric": "test/accuracy",
        "unit": "percent",
        "value": value,
        "outcome": None,
        "spread": 0.1,
        "n": 5,
        "spread_kind": "unknown",
        "margin": 0.3,
        "optimizer": optimizer,
        "as_released": True,
        "protocol": {"workload": "digits/cnn", "epochs": 2},
    }
    return Claim(**values | changes)


CLAIMS = [claim(name, value) for name, value in MEANS.items()]


@pytest.fixture
def measured_groups(tmp_path, monkeypatch):
    """Return a function that writes trials with the means `MEANS` and returns the measured groups.

    The function does not write the trials in `skip`.
    """

    def make(skip=(), diverged=(), epochs=2):
        trials = STUDY.trials(recipe={"epochs": epochs})
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for trial in trials:
            key = (trial.arm.optimizer, trial.config.seed)
            value = (MEANS[key[0]] + DEVIATIONS[key[1]]) / 100
            monkeypatch.setattr(
                "folders.metrics", lambda trial, epoch, value=value: {"test/accuracy": value}
            )
            if key not in skip:
                write_trial(root, trial, epochs, DIVERGED if key in diverged else "completed")
        return measured(trials, ledger.frame(trials, root), "test/accuracy")

    return make


def test_equal_values_are_reproduced_and_shifted_values_differ(measured_groups):
    results = measured_groups()
    assert [row.verdict for row in compare(CLAIMS, results)] == [REPRODUCED] * 3
    shifted = [dataclasses.replace(c, value=c.value + 2) for c in CLAIMS]
    rows = compare(shifted, results)
    assert [row.verdict for row in rows] == [DIFFERS] * 3
    assert [row.difference for row in rows] == pytest.approx([-2.0] * 3)
    sd = np.std(DEVIATIONS, ddof=1)
    assert rows[0].pooled == pytest.approx(-2.0 / np.sqrt((sd**2 + 0.1**2) / 2))


def test_verdict_rule_equals_a_hand_calculation(measured_groups):
    """With an SD of 0.079 and 5 seeds, the 95% interval is +-0.098 and the 90% interval +-0.075."""
    results = measured_groups()

    def verdict(value, **changes):
        return compare([claim(value=value, **changes)], results)[0].verdict

    assert verdict(90.2) == REPRODUCED  # 0.2 + 0.075 < 0.3
    assert verdict(90.24) == DIFFERS and verdict(90.24, spread=0.2) == COMPATIBLE
    assert verdict(90.24, spread=0.1) == DIFFERS and verdict(90.24, spread=0.15) == COMPATIBLE
    assert verdict(90.24, spread=0.3, spread_kind="sd") == DIFFERS  # 0.3 / sqrt(5) = 0.134
    assert verdict(90.24, spread=0.33, spread_kind="sd") == COMPATIBLE
    assert verdict(90.11, margin=0.1, spread=None, n=None) == DIFFERS
    assert verdict(90.09, margin=0.1, spread=None, n=None) == COMPATIBLE


def test_standard_error_also_applies_to_values_below_the_mean(measured_groups):
    results = measured_groups()
    verdicts = [
        compare([claim(value=89.76, spread=spread)], results)[0].verdict for spread in (0.1, 0.15)
    ]
    assert verdicts == [DIFFERS, COMPATIBLE]


def test_removing_a_claim_or_a_trial_changes_only_its_comparison(measured_groups):
    full = compare(CLAIMS, measured_groups())
    assert compare(CLAIMS[:1] + CLAIMS[2:], measured_groups()) == [full[0], full[2]]
    part = compare(CLAIMS, measured_groups(skip={("foof", 3)}))
    assert [a == b for a, b in zip(full, part, strict=True)] == [True, False, True]
    assert part[1].measured.n == 4
    single = compare(CLAIMS, measured_groups(skip={("foof", seed) for seed in range(4)}))
    assert [row.verdict for row in single] == [REPRODUCED, NOT_RUN, REPRODUCED]
    assert "two seeds" in single[1].why


def test_different_protocol_is_reported_without_a_verdict(measured_groups):
    rows = compare(CLAIMS, measured_groups(epochs=1))
    assert [row.verdict for row in rows] == [OTHER_PROTOCOL] * 3
    assert rows[0].why == "epochs=1 instead of 2"
    assert (
        compare([claim(protocol={"workload": "digits/mlp"})], measured_groups())[0].verdict
        == NOT_RUN
    )
    lr = claim(protocol={"workload": "digits/cnn", "epochs": 2, "lr": 0.5, "basis_interval": 7})
    (row,) = compare([lr], measured_groups())  # SGD has no basis_interval
    assert (row.verdict, row.why) == (OTHER_PROTOCOL, "lr=0.1 instead of 0.5")


def test_published_failures_are_compared_with_the_trials_statuses(measured_groups):
    failed = claim("foof", None, outcome="failed", spread=None)
    trials = [("foof", seed) for seed in range(5)]
    rows = [compare([failed], measured_groups(diverged=trials[:k]))[0] for k in (0, 2, 5)]
    assert [row.verdict for row in rows] == [DIFFERS, COMPATIBLE, REPRODUCED]
    assert [row.why for row in rows[:2]] == ["0 of 5 failed", "2 of 5 failed"]
    (number,) = compare([claim("foof", 94.0)], measured_groups(diverged=trials))
    assert (number.verdict, number.why) == (DIFFERS, "5 of 5 failed")


def test_verdict_on_a_cost_uses_the_interval_of_its_median():
    """The published ratio is 1.40, and the margin is 0.05."""

    def verdict(low, middle, high):
        result = Measured(
            label="sgd",
            optimizer="sgd",
            settings={"workload": "digits/cnn"},
            metric="time/ratio",
            values={},
            median=Median(middle, low, high),
        )
        ratio = claim(
            value=1.40, metric="time/ratio", unit="ratio", margin=0.05, spread=None, n=None
        )
        (row,) = compare([ratio], [result])
        assert row.measured.mean == middle and row.difference == pytest.approx(middle - 1.40)
        return row.verdict

    assert verdict(1.38, 1.41, 1.44) == REPRODUCED
    assert verdict(1.30, 1.41, 1.44) == verdict(1.38, 1.41, 1.50) == COMPATIBLE
    # The interval does not contain 1.40, but lies within the margin.
    assert verdict(1.41, 1.42, 1.44) == REPRODUCED
    assert verdict(1.41, 1.50, 1.60) == verdict(1.20, 1.30, 1.39) == DIFFERS


def test_verdict_on_times_counts_the_runs_that_miss_the_target():
    few = Measured(
        label="sgd",
        optimizer="sgd",
        settings={"workload": "digits/cnn", "target": 0.5},
        metric="target/epochs",
        values={0: 12.0, 1: 14.0},
        missed=3,
        median=Median(math.nan, 12.0, math.nan),
    )
    epochs = {"metric": "target/epochs", "unit": "epochs", "margin": 2, "spread": None, "n": None}
    protocol = {"protocol": {"workload": "digits/cnn", "target": 0.5}}
    (sooner,) = compare([claim(value=10.0, **epochs, **protocol)], [few])
    assert (sooner.verdict, sooner.why, sooner.failures) == (DIFFERS, "3 of 5 missed the target", 3)
    assert compare([claim(value=13.0, **epochs, **protocol)], [few])[0].verdict == COMPATIBLE
    (never,) = compare([claim(value=None, outcome="not reached", **epochs, **protocol)], [few])
    assert (never.verdict, never.why) == (COMPATIBLE, "3 of 5 missed the target")
    (failed,) = compare([claim(value=None, outcome="failed", **epochs, **protocol)], [few])
    assert failed.verdict == DIFFERS  # a completed trial that misses the target has not failed
    other = claim(value=10.0, **epochs, protocol={"workload": "digits/cnn", "target": 0.6})
    assert compare([other], [few])[0].why == "target=0.5 instead of 0.6"


def test_kendall_equals_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=7).astype(float), rng.integers(5, size=(20, 7)).astype(float)
    assert kendall(x, y) == pytest.approx([stats.kendalltau(x, row).statistic for row in y])


def test_ordering_has_kendalls_tau_and_its_interval(measured_groups):
    results = measured_groups()
    (equal,) = orderings(compare(CLAIMS, results))
    assert (equal.table, equal.column, equal.arms) == ("Table 1", "first", 3)
    assert (equal.tau, equal.lo, equal.hi) == (1, 1, 1)
    swapped = [claim("sgd", 90.0), claim("foof", 93.0), claim("nysact-s", 94.0)]
    (mixed,) = orderings(compare(swapped, results))
    assert mixed.tau == pytest.approx(1 / 3)
    assert orderings(compare(CLAIMS[:1], results)) == []


def test_ordering_of_noise_has_a_wide_and_repeatable_interval():
    rng = np.random.default_rng(1)
    noise = {name: dict(enumerate(0.9 + 0.01 * rng.normal(size=5))) for name in MEANS}
    results = [
        Measured(
            label=n,
            optimizer=n,
            settings={"workload": "digits/cnn"},
            metric="test/accuracy",
            values=v,
        )
        for n, v in noise.items()
    ]
    first, second = (orderings(compare(CLAIMS, results)) for _ in range(2))
    assert first == second and first[0].hi - first[0].lo > 0.5


def test_coverage_counts_the_claims_that_were_measured_with_the_published_protocol():
    rows = [
        SimpleNamespace(verdict=v)
        for v in (REPRODUCED, REPRODUCED, DIFFERS, NOT_RUN, OTHER_PROTOCOL)
    ]
    measured = "were measured with the published protocol"
    verdicts = "2 reproduced, 1 differs, 1 protocol differs"
    assert coverage(rows) == f"3 of 5 {measured}; verdicts: {verdicts}"
    assert coverage([]) == f"0 of 0 {measured}"


def test_each_claim_of_the_papers_has_a_valid_configuration():
    for name in ("nysact", "steve"):
        for published in load(PAPERS / f"{name}.yaml").claims:
            settings = expected(published)
            common = {key: value for key, value in published.protocol.items() if key in settings}
            assert "workload" in common
            assert common == {key: settings[key] for key in common}
