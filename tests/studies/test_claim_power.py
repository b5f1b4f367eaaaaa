"""The power of a design: the text of `--dry-run`, `Study.power`, and errors in claims."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import STUDY, planned, write_trial

from precond.hyperparameters import HyperparameterError
from studies import ablation_rank
from studies.harness.design.arms import grid
from studies.harness.design.claims import Better, Equivalent
from studies.harness.design.options import Options
from studies.harness.evidence import power
from studies.harness.evidence.power import LARGEST, sentences, warnings
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.kinds.study.plan import missing, plan
from studies.harness.kinds.study.study import Study
from studies.harness.statistics.planning import power as power_of
from studies.harness.statistics.planning import smallest_effect

ACCURACY = "test/accuracy"
GRID = Study(
    workload="digits/cnn",
    name="grid",
    title="t",
    arms=grid("nysact-s", rank=[5, 10, 15, 20, 25, 30], damping=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    figure=LevelFigure(factor="rank", panels=("nysact-s",)),
    seeds=3,
)


def test_power_is_that_of_one_test_after_the_correction_over_the_claims():
    result = STUDY.power(seeds=5)
    assert (result.claims, result.pairs) == ([claim.text for claim in STUDY.claims], 4)
    assert result.effect == pytest.approx(smallest_effect(5, 2))
    assert power_of(5, result.effect, 2) == pytest.approx(0.8, abs=1e-6)
    assert result.conclusive and warnings(result) == []
    seeds = result.seeds_for_one_sd
    assert seeds is not None and power_of(seeds, 1.0, 2) >= 0.8 > power_of(seeds - 1, 1.0, 2)


def test_claims_about_other_workloads_are_not_counted():
    elsewhere = Better("foof", than="sgd", on=("cifar10/*",))
    no_metric = Better("foof", than="sgd", metric="test/perplexity")
    study = replace(STUDY, claims=[*STUDY.claims, elsewhere, no_metric])
    assert study.power(seeds=5) == STUDY.power(seeds=5)


def test_design_of_all_pairs_of_36_arms_with_3_seeds_cannot_conclude():
    result = GRID.power()
    assert (result.pairs, result.tests, result.conclusive) == (630, 630, False)
    (line,) = warnings(result)
    assert line.startswith("Too few seeds: 3 seeds detect only gains above ")
    assert f"use --seeds {result.seeds_to_conclude}." in line
    assert GRID.power(seeds=result.seeds_to_conclude).effect <= LARGEST
    # A single claim about the same pairs is one test.
    claimed = replace(GRID, claims=[Equivalent("nysact-s *")])
    assert (claimed.power().pairs, claimed.power().conclusive) == (630, True)


def test_plan_states_that_it_cannot_conclude_before_anything_starts(tmp_path: Path):
    planned_study = plan(GRID, Options(out=tmp_path))
    first, warning = missing(planned_study).summary.splitlines()
    assert "108 to go" in first and warning.startswith("Too few seeds: 3 seeds detect")
    assert "\n" not in missing(plan(GRID, Options(out=tmp_path, report_only=True))).summary


def test_sd_of_a_gain_is_that_of_completed_trials(tmp_path: Path):
    """The folders have the same gap between two arms for each seed."""
    for trial in planned(seeds=2)[:3]:
        write_trial(tmp_path, trial)
    assert STUDY.power(root=tmp_path).spreads == {}  # no pair has two common seeds
    for trial in planned(seeds=2):
        write_trial(tmp_path, trial)
    assert STUDY.power(root=tmp_path).spreads == {ACCURACY: pytest.approx(0, abs=1e-12)}
    assert STUDY.power(root=tmp_path, workload="digits/mlp").spreads == {}


def test_sd_is_the_median_over_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from studies.harness.evidence import power

    values = np.random.default_rng(0).normal(size=(4, 5))
    results = [(f"g{g}", s, {ACCURACY: values[g, s]}) for g in range(4) for s in range(5)]
    monkeypatch.setattr(power, "_results", lambda root, workload: results)
    pairs = itertools.combinations(values, 2)
    expected = np.median([np.std(first - second, ddof=1) for first, second in pairs])
    result = STUDY.power(seeds=5, root=tmp_path)
    assert result.spreads[ACCURACY] == pytest.approx(expected)
    assert result.gains[ACCURACY] == pytest.approx(expected * result.effect)
    (text,) = sentences(result)
    assert f"{100 * result.gains[ACCURACY]:.2f} percentage points ({result.effect:.1f} SDs)" in text


@pytest.mark.parametrize(("shift", "words"), [(1.0, "% smaller test loss"), (-9.0, " test loss (")])
def test_gain_of_negative_losses_is_a_difference(
    shift: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trials = planned(3)
    results = [
        (trial.arm.label, trial.config.seed, {"test/loss": shift + 0.1 * i * i})
        for i, trial in enumerate(trials)
    ]
    monkeypatch.setattr(power, "_results", lambda *_: results)
    study = replace(STUDY, claims=[Better("foof", than="sgd", metric="test/loss")])
    text = " ".join(sentences(study.power(root=tmp_path)))
    assert words in text and ("smaller" in text) == (shift > 0)


def test_a_study_with_one_pair_is_not_told_to_compare_fewer():
    study = replace(GRID, arms=GRID.arms[:2], claims=[Better("a", than="b", on=("digits/mlp",))])
    text = " ".join(sentences(study.power(seeds=2)))
    assert "no claims about this workload, so its report only explores 1 pair of arms" in text
    assert "fewer pairs" not in text and "all 1" not in text


def test_one_seed_cannot_be_tested():
    assert sentences(STUDY.power(seeds=1)) == [
        "Too few seeds: with one seed, no difference between arms can be tested."
    ]


@pytest.mark.parametrize(
    ("claims", "line"),
    [
        ([Better("nysact-s rank=7", than="sgd")], "no arm is called nysact-s rank=7."),
        ([Better("foof", than="sgd", metric="test/acc")], 'metric = "test/acc": unknown.'),
        ([Better("foof", than="sgd", points=-1)], "points = -1: must be >= 0"),
        (Better("foof", than="sgd"), "claims: must be a list"),
    ],
    ids=["label", "metric", "margin", "list"],
)
def test_errors_in_claims_are_reported_before_anything_starts(claims, line, tmp_path: Path):
    with pytest.raises(HyperparameterError) as error:
        plan(replace(STUDY, claims=claims), Options(out=tmp_path))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_label_of_another_workload_of_the_study_is_not_an_error(tmp_path: Path):
    """Rank 40 is a level on digits/autoencoder only."""
    study = replace(ablation_rank.STUDY, claims=[Better("nysact-s rank=40", than="sgd")])
    assert plan(study, Options(out=tmp_path, workload="digits/cnn")).trials
    assert study.power(workload="digits/cnn").claims == []
