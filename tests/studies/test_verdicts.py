import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from folders import run
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
    name="paper",
    title="t",
    paper="P",
    table="Table 1",
    claim="c",
    falsifier="f",
    arms=[
        Arm(optimizer="sgd"),
        Arm(optimizer="foof", as_released=True),
        Arm(optimizer="nysact-s", as_released=True),
    ],
    figure=LevelFigure(factor="lr", panels=()),
    seeds=5,
)
MEANS = {"sgd": 90.0, "foof": 94.0, "nysact-s": 93.0}
SPREAD = [-0.1, 0.05, 0.0, 0.1, -0.05]


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
def groups(tmp_path, monkeypatch):
    """The study's groups, each arm around its value of MEANS; what `skip` names is not run."""

    def make(skip=(), diverged=(), epochs=2):
        trials = STUDY.trials(recipe={"epochs": epochs})
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for trial in trials:
            key = (trial.arm.optimizer, trial.config.seed)
            value = (MEANS[key[0]] + SPREAD[key[1]]) / 100
            monkeypatch.setattr(
                "folders.metrics", lambda trial, epoch, value=value: {"test/accuracy": value}
            )
            if key not in skip:
                run(root, trial, epochs, DIVERGED if key in diverged else "completed")
        return measured(trials, ledger.frame(trials, root), "test/accuracy")

    return make


def test_true_numbers_are_reproduced_and_shifted_ones_differ(groups):
    found = groups()
    assert [row.verdict for row in compare(CLAIMS, found)] == [REPRODUCED] * 3
    shifted = [dataclasses.replace(c, value=c.value + 2) for c in CLAIMS]
    rows = compare(shifted, found)
    assert [row.verdict for row in rows] == [DIFFERS] * 3
    assert [row.difference for row in rows] == pytest.approx([-2.0] * 3)
    sd = np.std(SPREAD, ddof=1)
    assert rows[0].pooled == pytest.approx(-2.0 / np.sqrt((sd**2 + 0.1**2) / 2))


def test_the_rule_by_hand(groups):
    """SD .079, n = 5: half of the 95% interval is .098, of the 90% one .075."""
    found = groups()

    def verdict(value, **changes):
        return compare([claim(value=value, **changes)], found)[0].verdict

    assert verdict(90.2) == REPRODUCED  # .2 + .075 < .3
    assert verdict(90.24) == DIFFERS or verdict(90.24, spread=0.2) == COMPATIBLE
    assert verdict(90.24, spread=0.1) == DIFFERS and verdict(90.24, spread=0.15) == COMPATIBLE
    assert verdict(90.24, spread=0.3, spread_kind="sd") == DIFFERS  # .3 / sqrt(5) = .134
    assert verdict(90.24, spread=0.33, spread_kind="sd") == COMPATIBLE
    assert verdict(90.11, margin=0.1, spread=None, n=None) == DIFFERS
    assert verdict(90.09, margin=0.1, spread=None, n=None) == COMPATIBLE


def test_a_number_below_the_mean_has_its_standard_error_too(groups):
    found = groups()
    verdicts = [
        compare([claim(value=89.76, spread=spread)], found)[0].verdict for spread in (0.1, 0.15)
    ]
    assert verdicts == [DIFFERS, COMPATIBLE]


def test_removing_a_claim_or_an_arms_trial_changes_one_cell(groups):
    full = compare(CLAIMS, groups())
    assert compare(CLAIMS[:1] + CLAIMS[2:], groups()) == [full[0], full[2]]
    part = compare(CLAIMS, groups(skip={("foof", 3)}))
    assert [a == b for a, b in zip(full, part, strict=True)] == [True, False, True]
    assert part[1].measured.n == 4
    gone = compare(CLAIMS, groups(skip={("foof", seed) for seed in range(4)}))
    assert [row.verdict for row in gone] == [
        REPRODUCED,
        NOT_RUN,
        REPRODUCED,
    ] and "two seeds" in gone[1].why


def test_another_protocol_is_named_and_not_judged(groups):
    rows = compare(CLAIMS, groups(epochs=1))
    assert [row.verdict for row in rows] == [OTHER_PROTOCOL] * 3
    assert rows[0].why == "epochs=1, published 2"
    assert compare([claim(protocol={"workload": "digits/mlp"})], groups())[0].verdict == NOT_RUN
    lr = claim(protocol={"workload": "digits/cnn", "epochs": 2, "lr": 0.5, "basis_interval": 7})
    (row,) = compare([lr], groups())
    assert (
        row.verdict == OTHER_PROTOCOL and row.why == "lr=0.1, published 0.5"
    )  # SGD has no basis_interval


def test_failures_are_held_against_the_trials_statuses(groups):
    failed = claim("foof", None, outcome="failed", spread=None)
    dead = [("foof", seed) for seed in range(5)]
    (none,), (some,), (every,) = (compare([failed], groups(diverged=dead[:k])) for k in (0, 2, 5))
    assert (none.verdict, some.verdict, every.verdict) == (DIFFERS, COMPATIBLE, REPRODUCED)
    assert (none.why, some.why) == ("0 of 5 failed", "2 of 5 failed")
    (number,) = compare([claim("foof", 94.0)], groups(diverged=dead))
    assert (number.verdict, number.why) == (DIFFERS, "5 of 5 failed")


def test_a_cost_is_judged_by_its_own_interval():
    """A margin of .05 around 1.40: the interval within it, across its end, and apart from the value."""

    def verdict(low, middle, high):
        found = Measured(
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
        (row,) = compare([ratio], [found])
        assert row.measured.mean == middle and row.difference == pytest.approx(middle - 1.40)
        return row.verdict

    assert verdict(1.38, 1.41, 1.44) == REPRODUCED
    assert verdict(1.30, 1.41, 1.44) == verdict(1.38, 1.41, 1.50) == COMPATIBLE
    assert verdict(1.41, 1.42, 1.44) == REPRODUCED  # apart, and within what is called the same
    assert verdict(1.41, 1.50, 1.60) == verdict(1.20, 1.30, 1.39) == DIFFERS


def test_a_time_that_few_runs_reach_has_an_open_interval_and_its_runs_are_counted():
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
    wanted = {"protocol": {"workload": "digits/cnn", "target": 0.5}}
    (sooner,) = compare([claim(value=10.0, **epochs, **wanted)], [few])
    assert (sooner.verdict, sooner.why, sooner.failures) == (DIFFERS, "3 of 5 missed the target", 3)
    assert compare([claim(value=13.0, **epochs, **wanted)], [few])[0].verdict == COMPATIBLE
    (never,) = compare([claim(value=None, outcome="not reached", **epochs, **wanted)], [few])
    assert (never.verdict, never.why) == (COMPATIBLE, "3 of 5 missed the target")
    (failed,) = compare([claim(value=None, outcome="failed", **epochs, **wanted)], [few])
    assert failed.verdict == DIFFERS  # to train to the end and miss is no failure to train
    other = claim(value=10.0, **epochs, protocol={"workload": "digits/cnn", "target": 0.6})
    assert compare([other], [few])[0].why == "target=0.5, published 0.6"


def test_tau_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=7).astype(float), rng.integers(5, size=(20, 7)).astype(float)
    assert kendall(x, y) == pytest.approx([stats.kendalltau(x, row).statistic for row in y])


def test_ordering_agreement_and_its_interval(groups):
    found = groups()
    (agreed,) = orderings(compare(CLAIMS, found))
    assert (agreed.table, agreed.column, agreed.arms) == ("Table 1", "first", 3)
    assert (agreed.tau, agreed.lo, agreed.hi) == (1, 1, 1)
    swapped = [claim("sgd", 90.0), claim("foof", 93.0), claim("nysact-s", 94.0)]
    (mixed,) = orderings(compare(swapped, found))
    assert mixed.tau == pytest.approx(1 / 3)
    assert orderings(compare(CLAIMS[:1], found)) == []


def test_an_order_within_noise_has_a_wide_interval_and_the_same_one_again():
    rng = np.random.default_rng(1)
    noise = {name: dict(enumerate(0.9 + 0.01 * rng.normal(size=5))) for name in MEANS}
    found = [
        Measured(
            label=n,
            optimizer=n,
            settings={"workload": "digits/cnn"},
            metric="test/accuracy",
            values=v,
        )
        for n, v in noise.items()
    ]
    first, again = (orderings(compare(CLAIMS, found)) for _ in range(2))
    assert first == again and first[0].hi - first[0].lo > 0.5


def test_coverage():
    rows = [
        SimpleNamespace(verdict=v)
        for v in (REPRODUCED, REPRODUCED, DIFFERS, NOT_RUN, OTHER_PROTOCOL)
    ]
    assert coverage(rows) == "3 of 5 cells run; 2 reproduced, 1 differs, 1 protocol differs"
    assert coverage([]) == "0 of 0 cells run"


def test_every_claim_of_the_papers_is_one_that_can_be_run():
    for name in ("nysact", "steve"):
        for published in load(PAPERS / f"{name}.yaml").claims:
            wanted = expected(published)
            assert wanted["workload"] == published.protocol["workload"]
            assert {
                wanted[key] == value for key, value in published.protocol.items() if key in wanted
            } == {True}
