"""The figure of an ablation for metrics of both directions, from synthetic trial folders."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.design.claims import Better
from studies.harness.evidence.claims import CONTRADICTED, Decision
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.report.figures import levels, means
from studies.harness.report.figures.limits import limits
from studies.harness.report.figures.style import panels, write_decision
from trainables.metrics import METRICS, Metric
from trainables.store import DIVERGED

STUDY = replace(
    folders.STUDY,
    arms=[Arm(optimizer="sgd"), *grid("nysact-s", rank=[5, 10, 20, 40])],
    figure=LevelFigure(factor="rank", panels=("nysact-s",), references=("sgd",)),
)
# The means by rank, or by optimizer without a rank. Rank 5 is much worse than the other ranks.
ERRORS = {"sgd": 1.0, 5: 5.0, 10: 1.0, 20: 0.9, 40: 0.8}
ACCURACIES = {"sgd": 0.93, 5: 0.20, 10: 0.93, 20: 0.94, 40: 0.95}
CASES = [
    ("digits/autoencoder", "test/mse", ERRORS, "^", 0.95, "5"),
    ("digits/cnn", "test/accuracy", ACCURACIES, "v", 0.05, "20%"),
]


@dataclass
class Drawing:
    """The calls that draw a figure.

    Attributes:
        marks: The marker, the height as a fraction of the axis, and the text of each mark.
        limits: The limits of each vertical axis.
        labels: The labels of the vertical axes.
        seeds: The heights of the line of each seed.
        legend: The labels and the title of the legend.
    """

    marks: list[tuple[str, float, str]] = field(default_factory=list)
    limits: list[tuple[float, float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    seeds: list[list[float]] = field(default_factory=list)
    legend: list[str] = field(default_factory=list)


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Drawing:
    """Record the calls that draw the figures of a test."""
    drawing, markers = Drawing(), list[str]()
    plot, annotate, legend = Axes.plot, Axes.annotate, Figure.legend
    set_ylim, set_ylabel = Axes.set_ylim, Axes.set_ylabel

    def record_plot(self: Axes, x, y, *form, **look):
        markers.extend(form)
        if form == (".-",):
            drawing.seeds.append([*y])
        return plot(self, x, y, *form, **look)

    def record_mark(self: Axes, text: str, position: tuple, *rest: Any, **look):
        drawing.marks.append((markers[-1], position[1], text))
        return annotate(self, text, position, *rest, **look)

    def record_limits(self: Axes, low: float, high: float):
        drawing.limits.append((low, high))
        return set_ylim(self, low, high)

    def record_label(self: Axes, text: str):
        drawing.labels.append(text)
        return set_ylabel(self, text)

    def record_legend(self: Figure, handles, labels, **look):
        drawing.legend.extend([*labels, look["title"]])
        return legend(self, handles, labels, **look)

    monkeypatch.setattr(Axes, "plot", record_plot)
    monkeypatch.setattr(Axes, "annotate", record_mark)
    monkeypatch.setattr(Axes, "set_ylim", record_limits)
    monkeypatch.setattr(Axes, "set_ylabel", record_label)
    monkeypatch.setattr(Figure, "legend", record_legend)
    return drawing


@pytest.fixture
def draw(tmp_path: Path, drawing: Drawing, monkeypatch: pytest.MonkeyPatch):
    """Return a function that draws the figure of trials with given means."""

    def draw(workload: str, metric: str, means: dict, diverged: tuple = (), study=STUDY) -> Drawing:
        """Draw the figure; `diverged` contains the (rank, seed) of each trial that diverges."""

        def metrics(trial: Trial, epoch: int) -> dict[str, float]:
            mean = means[trial.arm.overrides.get("rank", trial.arm.optimizer)]
            return {"train/loss": 1.0, metric: mean + 0.001 * (trial.config.seed - 1)}

        monkeypatch.setattr(folders, "metrics", metrics)
        trials = study.trials(workload, recipe={"epochs": 3}, seeds=range(3), arms=study.arms)
        for trial in trials:
            if (trial.arm.overrides.get("rank"), trial.config.seed) in diverged:
                folders.write_trial(tmp_path, trial, 1, DIVERGED, epoch=1, step=3)
            else:
                folders.write_trial(tmp_path, trial)
        monkeypatch.setattr(levels, "save", lambda figure, folder, name: [folder / name])
        assert folders.draw(tmp_path, trials, study)
        return drawing

    return draw


@pytest.mark.parametrize(("workload", "metric", "means", "marker", "height", "text"), CASES)
def test_mean_beyond_the_axis_is_marked_at_the_worse_end(
    draw, workload: str, metric: str, means: dict, marker: str, height: float, text: str
):
    drawing = draw(workload, metric, means)
    assert drawing.marks == [(marker, height, text)]
    [(low, high)] = drawing.limits
    scale = 100 if metric == "test/accuracy" else 1
    assert low < high  # larger values are above smaller values for both directions
    assert all(low < scale * mean < high for rank, mean in means.items() if rank != 5)
    assert scale * means[5] > high if height > 0.5 else scale * means[5] < low


@pytest.mark.parametrize(("workload", "metric", "means", "marker", "height", "text"), CASES)
def test_diverged_trials_are_marked_at_the_worse_end(
    draw, workload: str, metric: str, means: dict, marker: str, height: float, text: str
):
    drawing = draw(workload, metric, means, diverged=tuple((5, seed) for seed in range(3)))
    assert drawing.marks == [("x", height, "3 of 3\ndiverged")]
    assert "trials that diverged or failed" in drawing.legend


def test_lines_join_the_results_of_each_seed_and_break_at_a_diverged_trial(draw):
    means = {**ACCURACIES, 5: 0.93}
    drawing = draw("digits/cnn", "test/accuracy", means, diverged=((20, 1),))
    expected = [[93 + d, 93 + d, 94 + d, 95 + d] for d in (-0.1, 0.0, 0.1)]
    expected[1][2] = math.nan
    np.testing.assert_allclose(drawing.seeds, expected)
    assert drawing.marks[0][2] == "1 of 3\ndiverged"
    assert {"each seed", "each rank", "SGD"} <= set(drawing.legend)
    assert drawing.legend[-1] == "means and 95% intervals over 2 to 3 seeds"


def test_reference_beyond_the_axis_is_marked_and_does_not_compress_it(draw):
    drawing = draw("digits/cnn", "test/accuracy", {**ACCURACIES, 5: 0.93, "sgd": 0.2})
    assert drawing.marks == [("v", 0.05, "SGD 20%")]
    [(low, high)] = drawing.limits
    assert 90 < low < 93 and 95 < high < 98


def test_marks_that_are_not_drawn_have_no_entry_in_the_legend(draw):
    diverged = tuple((rank, seed) for rank in (5, 10, 20, 40) for seed in range(3))
    labels = draw("digits/cnn", "test/accuracy", ACCURACIES, diverged=diverged).legend
    assert "SGD" in labels and not {"each rank", "each seed"} & set(labels)


def test_references_that_coincide_are_named(draw):
    references = [Arm(optimizer=name) for name in ("sgd", "foof", "eva")]
    study = replace(
        STUDY,
        arms=[*references, *grid("nysact-s", rank=[5, 10, 20, 40])],
        figure=replace(STUDY.figure, references=("sgd", "foof", "eva")),
    )
    means = {**ACCURACIES, 5: 0.93, "foof": 0.93 + 1e-5, "eva": 0.94}
    labels = draw("digits/cnn", "test/accuracy", means, study=study).legend
    assert "FOOF (coincides with SGD)" in labels and {"SGD", "Eva"} <= set(labels)


def test_axis_has_the_name_and_the_unit_of_the_metric(draw):
    assert draw("digits/autoencoder", "test/mse", ERRORS).labels == ["test mse"]


def test_axis_of_an_accuracy_is_in_percent(draw):
    assert draw("digits/cnn", "test/accuracy", ACCURACIES).labels == ["test accuracy (%)"]


def test_figure_has_the_verdict_on_the_first_claim_as_its_title():
    figure, _ = panels((6, 3))
    claim = Better("a", than="b")
    untested = Decision(claim=claim, text="c is better than d")
    write_decision(figure, [untested, Decision(claim=claim, text=claim.text, verdict=CONTRADICTED)])
    assert figure.get_suptitle() == "Contradicted: a is better than b"
    figure, _ = panels((6, 3))
    write_decision(figure, [untested])
    assert figure.get_suptitle() == ""


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_lines_coincide_if_their_distance_is_below_the_line_width(scale: str):
    """The heights of the lines are given in points above the lower limit of the axis."""
    _, ((axes,),) = panels((4, 3))
    axes.set_yscale(scale)
    axes.set_ylim(1, 10)
    height = axes.bbox.height * 72 / axes.figure.dpi

    def line(points: list[float]) -> pd.Series:
        share = np.array(points) / height
        return pd.Series(10**share if scale == "log" else 1 + 9 * share)

    width = means.WIDTH
    heights = {
        "a": line([20, 30, 40]),
        "b": line([20 + 1.1 * width, 30 + 1.1 * width, 40]),
        "c": line([20 + 0.9 * width, 30 + 0.9 * width, 80]),
    }
    # At two of three epochs, b is next to a, and c lies on a and on b.
    assert means.coincidences(axes, heights) == {"c": "a"}
    assert means.coincide({"c": "a"}) == "c coincides with a for most epochs"
    del heights["a"]
    assert means.coincidences(axes, heights) == {"c": "b"}


def test_solid_lines_above_a_line_are_dashed_so_that_all_can_be_seen():
    styles = dict.fromkeys("abcd", ("black", "-"))
    changed = means.visible(styles, {"b": "a", "c": "a"})
    assert changed["a"] == changed["d"] == ("black", "-")
    (_, (first, dashes)), (_, (second, same)) = changed["b"], changed["c"]
    assert dashes == same and first != second and dashes[1] == 2 * dashes[0]


@pytest.mark.parametrize(("largest", "scale"), [(9.0, "linear"), (11.0, "log")])
def test_axis_of_an_error_is_logarithmic_if_the_means_span_a_decade(largest: float, scale: str):
    _, ((axes,),) = panels((4, 3))
    tables = [pd.DataFrame({"mean": [largest, 2.0, 1.5]}), pd.DataFrame({"mean": [3.0, 2.0, 1.0]})]
    means.set_scale(axes, tables, higher=False)
    assert axes.get_yscale() == scale


def rows(means: list[float], half_width: float = math.nan) -> list[dict]:
    """Return rows of `Evidence.arms` with these means and intervals."""
    return [{"mean": m, "ci_lo": m - half_width, "ci_hi": m + half_width} for m in means]


def test_limits_of_an_error_extend_above_the_median_and_contain_the_best_interval():
    """The range ends at 0.95 + 4 x (0.95 - 0.8) for the median 0.95 and the best mean 0.8.

    The intervals are +- 0.05. The range is 0.75 to 1.55, and the margins are 8% and 4% of it.
    """
    low, high = limits(rows([1.0, 0.9, 0.8, 5.0], 0.05), "test/mse")
    assert low == pytest.approx(0.75 - 0.04 * 0.8)
    assert high == pytest.approx(1.55 + 0.08 * 0.8)


def test_limits_of_an_error_contain_all_means_if_no_mean_is_very_bad():
    low, high = limits(rows([1.0, 0.9, 0.8]), "test/mse")
    assert (low, high) == (pytest.approx(0.8 - 0.04 * 0.2), pytest.approx(1.0 + 0.08 * 0.2))


def test_limits_of_a_loss_mirror_those_of_its_negative(monkeypatch: pytest.MonkeyPatch):
    """The direction changes the sign of the limits only."""
    monkeypatch.setitem(METRICS, "score", Metric("score", higher_is_better=True))
    means = [1.0, 0.9, 0.85, 0.8, 5.0, 2.0]
    negative = [{name: -value for name, value in row.items()} for row in rows(means, 0.1)]
    low, high = limits(rows(means, 0.1), "test/loss")
    assert limits(negative, "test/score") == (-high, -low)


@pytest.mark.parametrize("metric", ["test/accuracy", "test/mse"])
def test_limits_contain_the_seeds_and_references_if_the_means_are_close(metric: str):
    arms = [{**row, "arm": str(i)} for i, row in enumerate(rows([0.9, 0.9005, 0.901], 0.2))]
    seeds = {str(i): [0.85, 0.93] for i in range(3)}
    scale = 100 if metric == "test/accuracy" else 1
    values = [0.85, 0.93, 0.87, 0.95]
    low, high = limits(arms, metric, references=rows([0.87, 0.95]), seeds=seeds)
    assert all(low < scale * value < high for value in values)
    # The intervals extend the range of the seeds by at most 1.5 times its length.
    assert high - low < scale * (1 + 2 * 1.5) * 0.08 * 1.12 + 1e-9


def test_limits_contain_a_reference_that_is_much_better_but_not_one_that_is_much_worse():
    low, high = limits(rows([0.3, 0.31]), "test/accuracy", references=rows([0.9, 0.05]))
    assert 20 < low < 30 and high > 90


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("test/accuracy", 0.0, (0.0, 0.5)),
        ("test/accuracy", 0.9, (89.775, 90.225)),
        ("test/accuracy", 1.0, (99.5, 100.0)),
        ("test/mse", 0.0, (0.0, 0.005)),
        ("test/mse", 2.0, (1.995, 2.005)),
        ("test/mse", -2.0, (-2.005, -1.995)),
    ],
)
def test_limits_of_equal_values(metric: str, value: float, expected: tuple[float, float]):
    """The axis has margins of 4% at the better end and 8% at the worse end."""
    low, high = limits(rows([value, value], 0.0), metric)
    below, above = (0.08, 0.04) if metric == "test/accuracy" else (0.04, 0.08)
    size = expected[1] - expected[0]
    assert low == pytest.approx(expected[0] - below * size)
    assert high == pytest.approx(expected[1] + above * size)


@pytest.mark.parametrize(
    ("values", "positions"),
    [
        ([0.0, 1.0, 100.0, 1e6], [0, 1, 2, 3]),
        ([-1.0, 0.0, 1000.0], [0, 1, 2]),
        ([0.0, 1.0, 100.0], [0, 1, 100]),
        ([0.0], [0]),
        ([1.0, 100.0, 1e6], [1, 100, 1e6]),
    ],
)
def test_levels_are_evenly_spaced_if_no_axis_can_show_them(
    values: list[float], positions: list[float]
):
    _, ((axes,),) = panels((4, 3))
    assert levels._positions(axes, values) == positions
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [f"{value:g}" for value in values]
