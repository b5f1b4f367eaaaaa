"""Verdicts on published numbers, and the published and measured orders of the arms."""

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
from studies.harness.published.difference import Uncertainty, half_width, of_measured, p_value
from studies.harness.published.papers import PAPERS, Cell, load
from studies.harness.published.results import (
    corrected,
    coverage,
    multiplicity,
    orderings,
    too_uncertain,
)
from studies.harness.published.verdicts import (
    COMPATIBLE,
    DIFFERS,
    NOT_RUN,
    OTHER_PROTOCOL,
    REPRODUCED,
    Measured,
    compare,
    expected,
)
from studies.harness.statistics.paired import holm, kendall
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


def cell(optimizer="sgd", value: float | None = 90.0, **changes):
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
    return Cell(**values | changes)


CELLS = [cell(name, value) for name, value in MEANS.items()]


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
    assert [row.verdict for row in compare(CELLS, results)] == [REPRODUCED] * 3
    shifted = [dataclasses.replace(c, value=c.value + 2) for c in CELLS]
    rows = compare(shifted, results)
    assert [row.verdict for row in rows] == [DIFFERS] * 3
    assert [row.difference for row in rows] == pytest.approx([-2.0] * 3)
    sd = np.std(DEVIATIONS, ddof=1)
    half = stats.t.ppf(0.975, 4) * np.sqrt(sd**2 / 5 + 0.1**2)
    assert (rows[0].low, rows[0].high) == pytest.approx((-2.0 - half, -2.0 + half))


def test_verdict_rule_equals_a_hand_calculation(measured_groups):
    """The SD of the measured runs is 0.0791, so the variance of their mean is 0.00125."""
    results = measured_groups()

    def verdicts(*values, **changes):
        return [compare([cell(value=value, **changes)], results)[0].verdict for value in values]

    # Unknown kind, used as a standard error: sqrt(0.00125 + 0.01) is 0.106. With t(4) of 2.776 and
    # 2.132, the 95% interval is +-0.294 and the 90% interval +-0.226.
    assert verdicts(90.07, 90.08) == [REPRODUCED, COMPATIBLE]
    assert verdicts(90.29, 90.30) == verdicts(89.71, 89.70) == [COMPATIBLE, DIFFERS]
    # An SD of 0.3 over five runs: 2.776 sqrt(0.00125 + 0.09 / 5) is 0.385.
    assert verdicts(90.38, 90.39, spread=0.3, spread_kind="sd") == [COMPATIBLE, DIFFERS]
    # Three published runs have t(2) = 4.303; weighted by variances, 0.0465 / 0.106 is 0.438.
    assert verdicts(90.43, 90.44, n=3) == [COMPATIBLE, DIFFERS]
    # An unknown number of runs counts as two: (0.01 * 12.706 + 0.00347) / 0.106 is 1.231.
    assert verdicts(91.22, 91.24, n=None) == [COMPATIBLE, DIFFERS]


def test_absent_published_spread_is_unknown_and_not_zero(measured_groups):
    """The published runs then have the SD of the measured ones, 0.0791, as one run or as n runs."""
    results = measured_groups()

    def verdicts(*values, n):
        cells = [cell(value=value, spread=None, n=n, margin=0.1) for value in values]
        return [row.verdict for row in compare(cells, results)]

    # 2.776 * 0.0791 * sqrt(1 / 5 + 1 / n) is 0.240 for one run, and 0.139 for five.
    assert verdicts(90.23, 90.25, n=None) == verdicts(90.23, 90.25, n=1) == [COMPATIBLE, DIFFERS]
    assert verdicts(90.13, 90.15, n=5) == [COMPATIBLE, DIFFERS]


def test_p_value_of_equal_variances_is_that_of_the_t_test():
    """If both variances have the same degrees of freedom, the interval is Student's."""
    measured, published = of_measured(0.5, 5), Uncertainty(0.25 / 5, 4)
    for difference in (0.0, 0.4, -1.0, 30.0):
        expected = 2 * stats.t.sf(abs(difference) / np.sqrt(0.1), 4)
        assert p_value(difference, measured, published) == pytest.approx(expected)
        half = half_width(measured, published, expected)
        assert half == pytest.approx(abs(difference), abs=1e-9)
    assert p_value(1.0, Uncertainty(0.0, 4), Uncertainty(0.0, 4)) < 1e-200


def test_equal_values_have_the_uncertainty_of_the_grid():
    """The SD of the rounding error of a value is step / sqrt(12)."""
    assert of_measured(0.0, 5, step=0.6).variance == pytest.approx(0.6**2 / 12 / 5)
    assert of_measured(1.0, 5, step=0.6).variance == pytest.approx(1 / 5)
    result = Measured(
        label="sgd",
        optimizer="sgd",
        settings={"workload": "digits/cnn"},
        metric="test/accuracy",
        values=dict.fromkeys(range(5), 0.9),
        step=1 / 600,
    )
    changes = {"spread": None, "n": 5, "margin": 0.1}
    cells = [cell(value=value, **changes) for value in (90.08, 90.09)]
    # 2.776 * 0.1667 / sqrt(12) * sqrt(2 / 5) is 0.0845.
    assert [row.verdict for row in compare(cells, [result])] == [COMPATIBLE, DIFFERS]


def test_numbers_with_a_wide_printed_spread_cannot_be_reproduced(measured_groups):
    """With t(4) of 2.132 and the margin of 0.3, the largest standard error is 0.1407."""
    cells = [cell(spread=spread) for spread in (0.14, 0.141, 0.2)]
    rows = compare([*cells, cell(spread=None), cell(spread=0.3, spread_kind="sd")], [])
    assert too_uncertain(rows) == 2 and too_uncertain([]) == 0


@pytest.mark.parametrize(
    ("diverged", "verdict"),
    [(0, REPRODUCED), (1, COMPATIBLE), (2, COMPATIBLE), (3, DIFFERS), (4, DIFFERS)],
)
def test_lost_trials_prevent_a_reproduction_and_differ_as_a_majority(
    measured_groups, diverged, verdict
):
    """The mean of the completed trials stays within the margin of the published value."""
    trials = [("foof", seed) for seed in range(diverged)]
    (row,) = compare([cell("foof", 94.0)], measured_groups(diverged=trials))
    assert (row.verdict, row.failures) == (verdict, diverged)
    assert row.why == (f"{diverged} of 5 failed" if diverged else "")


def test_running_out_of_memory_does_not_reproduce_a_published_failure():
    failed = cell(value=None, outcome="failed", spread=None)
    common = {
        "label": "sgd",
        "optimizer": "sgd",
        "settings": {"workload": "digits/cnn"},
        "metric": "test/accuracy",
        "values": {},
        "failures": 3,
    }
    groups = [Measured(**common, oom=oom) for oom in (0, 1, 3)]
    verdicts = [compare([failed], [group])[0].verdict for group in groups]
    assert verdicts == [REPRODUCED, COMPATIBLE, DIFFERS]


def test_multiplicity_states_the_differences_by_chance_and_those_after_correction(measured_groups):
    # The p-values are 0.02 to 0.05 except for the last one.
    values = [90.0, 90.0, 90.3, 90.33, 91.5]
    rows = corrected(compare([cell(value=value) for value in values], measured_groups()))
    p = [row.p for row in rows]
    assert [row.p_holm for row in rows] == pytest.approx(list(holm(np.array(p))))
    text = multiplicity(rows)
    assert "differ at the 5% level: 3 of 5 that are tested" in text
    assert "at most 0.3 would differ by chance" in text
    assert "correction over the 5 tested means: 1." in text
    assert multiplicity([]) == ""


def test_removing_a_published_number_or_a_trial_changes_only_its_comparison(measured_groups):
    full = compare(CELLS, measured_groups())
    assert compare(CELLS[:1] + CELLS[2:], measured_groups()) == [full[0], full[2]]
    part = compare(CELLS, measured_groups(skip={("foof", 3)}))
    assert [a == b for a, b in zip(full, part, strict=True)] == [True, False, True]
    assert part[1].measured.n == 4
    single = compare(CELLS, measured_groups(skip={("foof", seed) for seed in range(4)}))
    assert [row.verdict for row in single] == [REPRODUCED, NOT_RUN, REPRODUCED]
    assert "two seeds" in single[1].why


def test_different_protocol_is_reported_without_a_verdict(measured_groups):
    rows = compare(CELLS, measured_groups(epochs=1))
    assert [row.verdict for row in rows] == [OTHER_PROTOCOL] * 3
    assert rows[0].why == "epochs=1 instead of 2"
    assert (
        compare([cell(protocol={"workload": "digits/mlp"})], measured_groups())[0].verdict
        == NOT_RUN
    )
    lr = cell(protocol={"workload": "digits/cnn", "epochs": 2, "lr": 0.5, "basis_interval": 7})
    (row,) = compare([lr], measured_groups())  # SGD has no basis_interval
    assert (row.verdict, row.why) == (OTHER_PROTOCOL, "lr=0.1 instead of 0.5")


def test_published_failures_are_compared_with_the_trials_statuses(measured_groups):
    failed = cell("foof", None, outcome="failed", spread=None)
    trials = [("foof", seed) for seed in range(5)]
    rows = [compare([failed], measured_groups(diverged=trials[:k]))[0] for k in (0, 2, 5)]
    assert [row.verdict for row in rows] == [DIFFERS, COMPATIBLE, REPRODUCED]
    assert [row.why for row in rows[:2]] == ["0 of 5 failed", "2 of 5 failed"]
    (number,) = compare([cell("foof", 94.0)], measured_groups(diverged=trials))
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
        ratio = cell(
            value=1.40, metric="time/ratio", unit="ratio", margin=0.05, spread=None, n=None
        )
        (row,) = compare([ratio], [result])
        assert row.measured.mean == middle and row.difference == pytest.approx(middle - 1.40)
        return row.verdict

    # The distances of the ends from the median are multiplied by sqrt(2), to 0.028 and 0.035.
    assert verdict(1.39, 1.41, 1.435) == REPRODUCED
    assert verdict(1.30, 1.41, 1.44) == verdict(1.38, 1.41, 1.44) == COMPATIBLE
    # The interval of the measured median does not contain 1.40, that of the difference does.
    assert verdict(1.405, 1.42, 1.46) == COMPATIBLE
    assert verdict(1.43, 1.50, 1.60) == verdict(1.20, 1.30, 1.37) == DIFFERS
    # A cost that does not vary, such as memory, is compared by the margin.
    assert [verdict(x, x, x) for x in (1.44, 1.46)] == [REPRODUCED, DIFFERS]


def test_verdict_on_times_counts_the_runs_that_miss_the_target():
    epochs = {"metric": "target/epochs", "unit": "epochs", "margin": 2, "spread": None, "n": None}
    epochs |= {"protocol": {"workload": "digits/cnn", "target": 0.5}}

    def judge(missed, **changes):
        values = dict(enumerate([12.0, 12.5, 13.0, 13.5, 14.0][: 5 - missed]))
        group = Measured(
            label="sgd",
            optimizer="sgd",
            settings={"workload": "digits/cnn", "target": 0.5},
            metric="target/epochs",
            values=values,
            missed=missed,
            median=Median(13.0, 12.0, math.nan) if missed else None,
        )
        return compare([cell(**epochs | changes)], [group])[0]

    assert [judge(missed, value=13.0).verdict for missed in range(6)] == (
        [REPRODUCED] + [COMPATIBLE] * 2 + [DIFFERS] * 3
    )
    row = judge(3, value=10.0)
    assert (row.verdict, row.why, row.failures) == (DIFFERS, "3 of 5 missed the target", 3)
    never = judge(3, value=None, outcome="not reached")
    assert (never.verdict, never.why) == (COMPATIBLE, "3 of 5 missed the target")
    # A completed trial that misses the target has not failed.
    assert judge(3, value=None, outcome="failed").verdict == DIFFERS
    other = {"protocol": {"workload": "digits/cnn", "target": 0.6}}
    assert judge(3, value=10.0, **other).why == "target=0.5 instead of 0.6"


def test_kendall_equals_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=7).astype(float), rng.integers(5, size=(20, 7)).astype(float)
    assert kendall(x, y) == pytest.approx([stats.kendalltau(x, row).statistic for row in y])


def test_ordering_counts_the_pairs_that_are_significantly_ordered(measured_groups):
    results = measured_groups()
    (equal,) = orderings(compare(CELLS, results))
    assert (equal.table, equal.column, equal.arms) == ("Table 1", "first", 3)
    assert (equal.tau, equal.pairs, equal.same, equal.reverse) == (1, 3, 3, 0)
    swapped = [cell("sgd", 90.0), cell("foof", 93.0), cell("nysact-s", 94.0)]
    (mixed,) = orderings(compare(swapped, results))
    assert mixed.tau == pytest.approx(1 / 3)
    assert (mixed.pairs, mixed.same, mixed.reverse) == (3, 2, 1)
    assert orderings(compare(CELLS[:1], results)) == []


def test_arm_whose_trials_are_mostly_lost_is_the_last_of_the_order(measured_groups):
    """FOOF is the first in the paper. The mean of its completed trials has the same place."""
    results = measured_groups(diverged=[("foof", seed) for seed in range(4)])
    (ordering,) = orderings(compare(CELLS, results))
    assert ordering.arms == 3 and ordering.tau == pytest.approx(-1 / 3)


def test_coverage_counts_the_numbers_that_were_measured_with_the_published_protocol():
    rows = [
        SimpleNamespace(verdict=v)
        for v in (REPRODUCED, REPRODUCED, DIFFERS, NOT_RUN, OTHER_PROTOCOL)
    ]
    measured = "were measured with the published protocol"
    verdicts = "2 reproduced, 1 differs, 1 protocol differs"
    assert coverage(rows) == f"3 of 5 {measured}; verdicts: {verdicts}"
    assert coverage([]) == f"0 of 0 {measured}"


def test_each_published_number_of_the_papers_has_a_valid_configuration():
    for name in ("nysact", "steve"):
        for published in load(PAPERS / f"{name}.yaml").cells:
            settings = expected(published)
            common = {key: value for key, value in published.protocol.items() if key in settings}
            assert "workload" in common
            assert common == {key: settings[key] for key in common}
