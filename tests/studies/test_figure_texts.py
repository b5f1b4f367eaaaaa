"""The texts of figures: none is cut by the edge of its figure, and none lies on another one.

`tests/studies/conftest.py` checks every figure that a test saves (`geometry.faults`). The figures of
this file have long names, many arms, and levels close to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import folders
import geometry
import matplotlib
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies import ablation_damping, ablation_sampling, compare_accuracy
from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.evidence import ledger
from studies.harness.kinds.study.figures import CurveFigure, LevelFigure
from studies.harness.kinds.study.study import Study
from studies.harness.report.figures import curves, means, style
from studies.harness.report.figures.layout import arrange_texts, legend
from trainables.store import COMPLETED, DIVERGED

LONG = "an-optimizer-of-a-plugin-with-a-very-long-name-number"
NAMES = [f"{LONG}-{i}" for i in range(14)]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes the trial folders of arms that need not be registered."""

    def write(study: Study, value: Callable[[Trial, int], float], seeds: int = 2) -> list[Trial]:
        monkeypatch.setattr(folders, "accuracy", value)
        trials = folders.planned(seeds, epochs=3, arms=study.arms)
        for trial in trials:
            folders.write_trial(tmp_path, trial)
        return trials

    return write


def value(trial: Trial, epoch: int) -> float:
    return 0.9 + 0.01 * trial.config.seed + 0.001 * len(trial.arm.label) - 0.1 / (epoch + 1)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths if path.suffix == ".png"]


def test_the_check_finds_a_cut_title_and_labels_that_lie_on_one_another():
    figure, ((axes,),) = style.panels((3, 2))
    axes.set_xticks([1, 1.01, 2], ["0.01", "0.013", "1"])
    assert [line.count("lies on") for line in geometry.faults(figure)] == [1]
    figure.suptitle("a title that is much wider than a figure of three inches")
    assert "is cut by the edge" in geometry.faults(figure)[0]


@pytest.mark.parametrize("variants", [False, True], ids=["one variant", "both variants"])
def test_curves_of_14_arms_with_long_names(write, tmp_path: Path, variants: bool):
    arms = [
        Arm(optimizer=name, as_released=as_released)
        for as_released in ([True, False] if variants else [False])
        for name in NAMES
    ]
    study = replace(folders.STUDY, arms=arms, claims=[], figure=CurveFigure())
    assert names(folders.draw(tmp_path, write(study, value), study)) == ["curves.png"]


def test_levels_of_long_names_beside_14_references(write, tmp_path: Path):
    arms = [*grid("nysact-s", rank=[1, 2, 5]), *(Arm(optimizer=name) for name in NAMES)]
    figure = LevelFigure(factor="rank", panels=("nysact-s",), references=tuple(NAMES))
    study = replace(folders.STUDY, arms=arms, claims=[], figure=figure)
    assert names(folders.draw(tmp_path, write(study, value), study)) == ["rank.png"]


def test_level_of_the_recipe_beside_a_level_of_the_study(write, tmp_path: Path):
    """The labels of 0.01 and 0.013 are in two rows."""
    arms = grid("kfac", damping=[0.01, 0.013, 0.03, 0.1, 1.0, 10.0])
    study = replace(ablation_damping.STUDY, arms=arms, claims=[])
    assert names(folders.draw(tmp_path, write(study, value), study)) == ["damping.png"]


def test_title_of_a_long_claim(write, tmp_path: Path):
    study = replace(ablation_sampling.STUDY, workload="digits/cnn")
    paths = folders.draw(tmp_path, write(study, value), study)
    assert names(paths) == ["resample.png"]


def test_legend_has_fewer_columns_if_it_would_be_wider_than_the_figure():
    figure, ((axes,),) = style.panels((3, 2))
    (line,) = axes.plot([0, 1], [0, 1])
    legend(figure, dict.fromkeys(NAMES[:4], line), 4, "a title that is wider than the figure " * 2)
    arrange_texts(figure)
    assert geometry.faults(figure) == []
    figure, _ = style.panels((6, 2))
    legend(figure, dict.fromkeys("abcd", line), 4)
    assert figure.legends[0]._ncols == 4


# ---------------------------------------------------------------------- no empty axis


def test_without_a_panel_of_the_study_the_figure_has_the_curves(write, tmp_path: Path):
    """`--optimizers sgd,foof` leaves no optimizer with a rank."""
    study = replace(folders.STUDY, arms=[Arm(optimizer="sgd"), Arm(optimizer="foof")])
    trials = write(study, value)
    assert names(folders.draw(tmp_path, trials, study)) == ["curves.png"]
    text = folders.report(tmp_path, trials, study).files[0].read_text()
    assert "(curves.png)" in text and "(rank.png)" not in text


def test_panels_without_an_arm_are_left_out_and_other_arms_are_references(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`--optimizers nysact-s,adam`: Adam is not in the study's figure."""
    arms = [*grid("nysact-s", rank=[5, 10]), Arm(optimizer="adam")]
    study = replace(folders.STUDY, arms=arms, claims=[])
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text: titles.append(text))
    paths = folders.draw(tmp_path, write(study, value), study)
    assert titles == ["NysAct-S"] and names(paths) == ["rank.png"]
    assert "Adam" in paths[2].read_text()


def test_report_says_that_there_is_no_figure(tmp_path: Path):
    trials = folders.planned(2)
    text = folders.report(tmp_path, trials).files[0].read_text()
    assert "There is no figure yet, because no trial has a result that it shows." in text
    assert "![" not in text


def test_curves_leave_out_a_metric_that_no_trial_has(write, tmp_path: Path):
    study = replace(folders.STUDY, arms=[Arm(optimizer="sgd")], claims=[])
    evidence = folders.evidence(tmp_path, write(study, value), study)
    assert curves.draw(evidence, ["diag/residual_max"], tmp_path) == []
    assert len(curves.draw(evidence, ["diag/residual_max", "test/loss"], tmp_path)) == 3


# ---------------------------------------------------------------------- single and equal values


def panel(points: list[float], metric: str = "test/accuracy") -> tuple[Figure, Axes]:
    """Return a panel with a curve of these means of three equal seeds."""
    figure, ((axes,),) = style.panels((3.4, 2.5))
    epochs = pd.DataFrame(
        [
            {"arm": "sgd", "optimizer": "sgd", "seed": seed, "epoch": epoch, metric: value}
            for seed in range(3)
            for epoch, value in enumerate(points)
        ]
    )
    table = means.tables(epochs, metric)["sgd"]
    higher = metric == "test/accuracy"
    means.set_scale(axes, [table], higher)
    curve = means.Curve("SGD", ("black", "-"), table, table.index.to_numpy() + 1)
    means.draw_curves(axes, [curve], higher)
    style.integer_axis(axes)
    axes.set_xlabel("epoch")
    figure.draw_without_rendering()
    return figure, axes


@pytest.mark.parametrize(
    ("points", "marked"),
    [([0.9], [0]), ([0.8, 0.9], None), ([0.9, math.nan, 0.8, 0.9, math.nan, 0.9], [0, 5])],
)
def test_points_without_neighbours_have_markers(points: list[float], marked: list[int] | None):
    _, ((axes,),) = style.panels((3.4, 2.5))
    means.draw_line(axes, range(len(points)), points)
    [line] = axes.lines
    assert line.get_markevery() == marked and line.get_marker() == ("o" if marked else "None")


def test_curve_of_one_epoch_has_a_marker_and_one_tick():
    figure, axes = panel([0.9])
    assert [line.get_marker() for line in axes.lines] == ["o"]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]
    assert geometry.faults(figure) == []


@pytest.mark.parametrize(
    ("metric", "value"),
    [("test/accuracy", v) for v in (0.0, 0.9, 1.0)] + [("train/loss", v) for v in (0.0, 2.3, -1.0)],
)
@matplotlib.rc_context(style.STYLE)
def test_axis_of_equal_values_has_no_offset_and_no_arrows(metric: str, value: float):
    _, axes = panel([value] * 3, metric)
    (low, high), (bottom, top) = axes.get_ylim(), (0, 100 if metric == "test/accuracy" else 10)
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert all(line.get_label() != means.BEYOND for line in axes.lines)
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert len(ticks) > 2 and (value < 0 or all(bottom <= tick <= top for tick in ticks))


# ---------------------------------------------------------------------- intervals beyond the axis


def test_ends_of_intervals_beyond_the_axis_are_marked_by_arrows():
    _, ((axes,),) = style.panels((3, 2))
    axes.set_ylim(0, 1)
    for interval in ((-1, 0.5), (0.5, 2), (-1, 2), (0.2, 0.8), (math.nan, math.nan)):
        means.mark_ends(axes, 0.5, interval, "black", transform=axes.transAxes)
    marks = [(line.get_marker(), line.get_ydata()[0]) for line in axes.lines]
    assert marks == [("v", 0.0), ("^", 1.0), ("v", 0.0), ("^", 1.0)]


def test_figure_of_levels_marks_a_wide_interval(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def noisy(trial: Trial, epoch: int) -> float:
        spread = 0.2 if trial.arm.overrides.get("rank") == 5 else 0.001
        return 0.7 + spread * trial.config.seed + 0.001 * trial.arm.overrides.get("rank", 0)

    study = replace(folders.STUDY, arms=grid("nysact-s", rank=[5, 10, 20]), claims=[])
    marked: list[tuple[float, float]] = []
    draw = means.mark_ends

    def record(axes: Axes, x: float, interval: tuple[float, float], *rest, **look) -> None:
        low, high = axes.get_ylim()
        if interval[0] < low or interval[1] > high:
            marked.append(interval)
        draw(axes, x, interval, *rest, **look)

    monkeypatch.setattr("studies.harness.report.figures.levels.mark_ends", record)
    paths = folders.draw(tmp_path, write(study, noisy), study)
    assert len(marked) == 1 and means.BEYOND in paths[2].read_text()


def test_level_with_diverged_trials_and_a_mean_beyond_the_axis_has_one_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def is_low(trial: Trial) -> bool:
        return trial.arm.overrides["rank"] == 5

    study = replace(folders.STUDY, arms=grid("nysact-s", rank=[5, 10, 20, 40]), claims=[])
    monkeypatch.setattr(folders, "accuracy", lambda trial, _: 0.1 if is_low(trial) else 0.9)
    trials = folders.planned(3, epochs=3, arms=study.arms)
    for trial in trials:
        lost = is_low(trial) and trial.config.seed == 0
        folders.write_trial(tmp_path, trial, status=DIVERGED if lost else COMPLETED)
    texts: list[str] = []
    monkeypatch.setattr(Axes, "annotate", lambda self, text, *_, **__: texts.append(text))
    folders.draw(tmp_path, trials, study)
    assert texts == ["1 of 3\ndiverged\nmean 10%"]


# ---------------------------------------------------------------------- names


def test_names_of_plugins_are_not_changed(write, tmp_path: Path):
    study = replace(compare_accuracy.STUDY, arms=[Arm(optimizer="signsgd")], claims=[])
    trials = write(replace(study, figure=CurveFigure()), value)
    svg = folders.draw(tmp_path, trials, study)[2].read_text()
    assert "signsgd" in svg and "SIGNSGD" not in svg
    assert list(ledger.frame(trials, tmp_path)["arm"].unique()) == ["signsgd"]
