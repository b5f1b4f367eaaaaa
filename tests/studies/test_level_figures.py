"""The figure of an ablation for metrics of both directions, from synthetic trial folders."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import folders
import pytest
from matplotlib.axes import Axes

from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.report.figures.levels import _limits
from trainables.metrics import METRICS, Metric
from trainables.store import DIVERGED

STUDY = replace(
    folders.STUDY,
    arms=[Arm(optimizer="sgd"), *grid("nysact-s", rank=[5, 10, 20, 40])],
    figure=LevelFigure(factor="rank", panels=("nysact-s",), references=("sgd",)),
)
# The means by rank; None stands for SGD. Rank 5 is much worse than the other ranks.
ERRORS = {None: 1.0, 5: 5.0, 10: 1.0, 20: 0.9, 40: 0.8}
ACCURACIES = {None: 0.93, 5: 0.20, 10: 0.93, 20: 0.94, 40: 0.95}
CASES = [
    ("digits/autoencoder", "test/mse", ERRORS, "^", 0.94, "5"),
    ("digits/cnn", "test/accuracy", ACCURACIES, "v", 0.06, "20"),
]


class Drawing(NamedTuple):
    """The calls that draw a figure.

    Attributes:
        marks: The marker, the height as a fraction of the axis, and the text of each mark.
        limits: The limits of each vertical axis.
        labels: The labels of the vertical axes.
    """

    marks: list[tuple[str, float, str]]
    limits: list[tuple[float, float]]
    labels: list[str]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that draws the figure of trials with given means."""

    def draw(workload: str, metric: str, means: dict, diverging_rank: int = 0) -> Drawing:
        def metrics(trial: Trial, epoch: int) -> dict[str, float]:
            mean = means[trial.arm.overrides.get("rank")]
            return {"train/loss": 1.0, metric: mean + 0.001 * (trial.config.seed - 1)}

        monkeypatch.setattr(folders, "metrics", metrics)
        trials = STUDY.trials(workload, recipe={"epochs": 3}, seeds=range(3), arms=STUDY.arms)
        for trial in trials:
            if trial.arm.overrides.get("rank") == diverging_rank:
                folders.write_trial(tmp_path, trial, 1, DIVERGED, epoch=1, step=3)
            else:
                folders.write_trial(tmp_path, trial)
        drawing = Drawing([], [], [])
        plot, annotate = Axes.plot, Axes.annotate
        set_ylim, set_ylabel = Axes.set_ylim, Axes.set_ylabel
        markers: list[str] = []

        def record_plot(self: Axes, x, y, *form, **look):
            markers.extend(form)
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

        monkeypatch.setattr(Axes, "plot", record_plot)
        monkeypatch.setattr(Axes, "annotate", record_mark)
        monkeypatch.setattr(Axes, "set_ylim", record_limits)
        monkeypatch.setattr(Axes, "set_ylabel", record_label)
        assert len(folders.draw(tmp_path, trials, STUDY)) == 3
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
    drawing = draw(workload, metric, means, diverging_rank=5)
    assert drawing.marks == [("x", height, "3/3")]


def test_axis_has_the_name_and_the_unit_of_the_metric(draw):
    assert draw("digits/autoencoder", "test/mse", ERRORS).labels == ["test mse"]
    assert draw("digits/cnn", "test/accuracy", ACCURACIES).labels == ["test accuracy (%)"]


def rows(means: list[float], half_width: float = math.nan) -> list[dict]:
    """Return rows of `Evidence.arms` with these means and intervals."""
    return [{"mean": m, "ci_lo": m - half_width, "ci_hi": m + half_width} for m in means]


def test_limits_of_an_error_extend_above_the_median_and_contain_the_best_interval():
    """The range ends at 0.95 + 4 x (0.95 - 0.8) for the median 0.95 and the best mean 0.8.

    The intervals are +- 0.05. The range is 0.75 to 1.55, and the margins are 8% and 4% of it.
    """
    low, high = _limits(rows([1.0, 0.9, 0.8, 5.0], 0.05), "test/mse")
    assert low == pytest.approx(0.75 - 0.04 * 0.8)
    assert high == pytest.approx(1.55 + 0.08 * 0.8)


def test_limits_of_an_error_contain_all_means_if_no_mean_is_very_bad():
    low, high = _limits(rows([1.0, 0.9, 0.8]), "test/mse")
    assert (low, high) == (pytest.approx(0.8 - 0.04 * 0.2), pytest.approx(1.0 + 0.08 * 0.2))


def test_limits_of_a_loss_mirror_those_of_its_negative(monkeypatch: pytest.MonkeyPatch):
    """The direction changes the sign of the limits only."""
    monkeypatch.setitem(METRICS, "score", Metric("score", higher_is_better=True))
    means = [1.0, 0.9, 0.85, 0.8, 5.0, 2.0]
    negative = [{name: -value for name, value in row.items()} for row in rows(means, 0.1)]
    low, high = _limits(rows(means, 0.1), "test/loss")
    assert _limits(negative, "test/score") == (-high, -low)
