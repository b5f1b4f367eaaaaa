"""The heat map of two factors, and the test of their interaction."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import folders
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.evidence.interaction import cells, interaction
from studies.harness.kinds.study.figures import HeatmapFigure
from studies.harness.report.figures import heatmap
from trainables.store import DIVERGED

MEANS = np.array([[0.0, 1, 2], [3, 4, 7]])
LEVELS = {"damping": [0.1, 1.0], "rank": [5, 10, 20]}
STUDY = replace(
    folders.STUDY,
    arms=[*grid("nysact-s", **LEVELS), Arm(optimizer="sgd")],
    claims=[],
    figure=HeatmapFigure(factors=("damping", "rank")),
)


def least_squares(values: np.ndarray) -> tuple[float, int, float]:
    """Return F, its first degrees of freedom and the p-value, from two regressions."""
    seeds, rows, columns = np.indices(values.shape).reshape(3, -1)

    def design(*groups: np.ndarray) -> np.ndarray:
        return np.hstack([group[:, None] == np.unique(group) for group in groups]).astype(float)

    def residual(matrix: np.ndarray) -> tuple[float, int]:
        y = values.ravel()
        fitted = matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0]
        return float(((y - fitted) ** 2).sum()), len(y) - int(np.linalg.matrix_rank(matrix))

    additive, additive_df = residual(design(seeds, rows, columns))
    full, full_df = residual(design(seeds, rows * values.shape[2] + columns))
    df = additive_df - full_df
    f = (additive - full) / df / (full / full_df)
    return f, df, float(stats.f.sf(f, df, full_df))


def test_interaction_is_the_comparison_of_two_regressions():
    values = np.random.default_rng(0).normal(size=(4, 2, 3)) + MEANS
    result = interaction(values)
    f, df, p = least_squares(values)
    assert (result.f, result.p) == pytest.approx((f, p)) and result.df[0] == df
    assert result.departures.sum(axis=0) == pytest.approx(np.zeros(3))
    assert result.departures.sum(axis=1) == pytest.approx(np.zeros(2))


def test_noise_that_the_cells_of_a_seed_share_is_no_noise_of_the_test():
    values = np.random.default_rng(1).normal(size=(4, 2, 3)) + MEANS
    shifted = values + np.array([0, 10, -20, 5])[:, None, None]
    assert interaction(shifted).p == pytest.approx(interaction(values).p)


def test_additive_values_have_no_interaction():
    values = np.add.outer([0, 1], [[0.1, 0.2, 0.4]])[:, 0] + np.zeros((3, 1, 1))
    assert interaction(values).f == 0 and interaction(values).p == 1


def test_equal_seeds_have_the_noise_of_the_rounding():
    step = 1 / 600
    values = np.tile([[0.0, step], [0.0, 0.0]], (3, 1, 1))  # one example more in a single cell
    assert interaction(values).p < 1e-6
    assert interaction(values, step).f == pytest.approx(3 * 4 * (step / 4) ** 2 / (step**2 / 12))


@pytest.mark.parametrize("reason", ["a single seed", "a failure of each seed", "a single level"])
def test_there_is_no_test_with(reason: str):
    values = np.random.default_rng(2).normal(size=(3, 2, 2))
    if reason == "a failure of each seed":
        values[range(3), 0, [0, 1, 0]] = [np.inf, np.nan, -np.inf]
    values = values[:1] if reason == "a single seed" else values
    result = interaction(values[:, :1] if reason == "a single level" else values)
    assert np.isnan(result.p) and np.isnan(result.departures).all()


def test_rate_of_interactions_that_are_found_by_chance():
    rng = np.random.default_rng(3)
    p = [
        interaction(rng.normal(size=(3, 2, 3)) + rng.normal(size=(3, 1, 1))).p for _ in range(2000)
    ]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)


# ---------------------------------------------------------------------- figure and report


def accuracy(trial: Trial, epoch: int) -> float:
    """Return an accuracy whose rank has no effect at the smaller damping."""
    level = trial.arm.overrides
    noise = 0.0005 * ((7 * trial.config.seed + int(10 * level.get("rank", 0))) % 5)
    gain = 0.001 * level.get("rank", 0) if level.get("damping") == 1.0 else 0.0
    return 0.9 + gain + noise + 0.01 * trial.config.seed


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Write the trial folders; one trial of damping 0.1 and rank 5 diverges."""
    monkeypatch.setattr(folders, "accuracy", accuracy)
    trials = STUDY.trials("digits/cnn", range(4), {"epochs": 1}, STUDY.arms)
    for trial in trials:
        lost = trial.arm.label == "nysact-s damping=0.1 rank=5" and trial.config.seed == 3
        folders.write_trial(tmp_path, trial, 0 if lost else None, DIVERGED if lost else "completed")
    return trials


def test_report_has_the_heat_map_and_the_interaction(tmp_path: Path, trials: list[Trial]):
    report = folders.report(tmp_path, trials, STUDY)
    text = report.files[0].read_text()
    assert "(damping_by_rank.png)" in text
    match = re.search(r"`nysact-s`: the effect of damping depends on rank \(F\(2, 10\)", text)
    assert match and "3 seeds" in text
    assert re.search(r"\| damping \| rank 5 \| rank 10 \| rank 20 \|", text)
    svg = (report.files[0].parent / "damping_by_rank.svg").read_text()
    assert (
        "1 of 4" in svg
        and "diverged" in svg
        and "n = 4" in svg
        and "NysAct-S" in svg
        and "SGD" not in svg
    )


def test_cells_hold_the_means_by_hand(tmp_path: Path, trials: list[Trial]):
    evidence = folders.evidence(tmp_path, trials, STUDY)
    [part] = cells(evidence.arms, ("damping", "rank"), evidence.factors)
    assert part.levels == ([0.1, 1.0], [5, 10, 20])
    for (row, column), arm in part.arms.items():
        label = f"nysact-s damping={part.levels[0][row]} rank={part.levels[1][column]}"
        values = [accuracy(t, 0) for t in trials if t.arm.label == label]
        values = values[:3] if (row, column) == (0, 0) else values
        assert arm["mean"] == pytest.approx(np.mean(values)) and arm["n"] == len(values)


def test_without_a_result_there_is_no_heat_map(tmp_path: Path):
    trials = STUDY.trials("digits/cnn", range(2), {"epochs": 1}, STUDY.arms)
    assert folders.draw(tmp_path, trials, STUDY) == []
    text = folders.report(tmp_path, trials, STUDY).files[0].read_text()
    assert "the interaction of damping and rank cannot be tested" in text


@pytest.mark.parametrize(("levels", "value"), [([5, 10], 1.0), ([5], 0.9)])
def test_scale_of_equal_means_has_one_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: list[int], value: float
):
    monkeypatch.setattr(folders, "accuracy", lambda trial, epoch: value)
    figures: list[Figure] = []
    monkeypatch.setattr(heatmap, "save", lambda figure, *rest: figures.append(figure) or [])
    study = replace(STUDY, arms=grid("nysact-s", damping=[0.1], rank=levels))
    trials = study.trials("digits/cnn", range(2), {"epochs": 1}, study.arms)
    for trial in trials:
        folders.write_trial(tmp_path, trial)
    folders.draw(tmp_path, trials, study)
    [figure] = figures
    assert [tick.get_text() for tick in figure.axes[-1].get_yticklabels()] == [f"{value:.2%}"[:-1]]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (("damping", "rnak"), 'factors = "rnak": no arm of the study has this name.'),
        (("rank", "rank"), "factors = ('rank', 'rank'): must be two different factors"),
    ],
)
def test_factors_are_checked(factors: tuple[str, str], message: str):
    lines = HeatmapFigure(factors=factors).problems(["nysact-s"], ["damping", "rank"])
    assert [message in line for line in lines] == [True]
