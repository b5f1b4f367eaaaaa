"""Figures of a study of times to a target: curves over epochs and over time, and epochs over the target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.harness.evidence.costs import Cost
from studies.harness.evidence.reach import Reached
from studies.harness.evidence.statistics import summarize
from studies.harness.kinds.study.study import Trial
from studies.harness.report.figures.style import REFERENCES, STYLE, SUBJECT, display, save
from trainables.store import COMPLETED

# Okabe and Ito's other colours; the order of the plan decides, so its first arm is the study's subject.
STYLES: Any = ((SUBJECT, "-"), *REFERENCES, ("#56B4E9", (0, (1, 1))), ("black", "-"), ("0.45", (0, (8, 2))))
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def draw(reached: Reached | None, folder: Path) -> list[Path]:
    """Draw `time_to_target` (for each further hardware one with a number) and `epochs_over_target`.

    Args:
        reached: The study's times; None where it has no target.
        folder: Where to write.

    Returns:
        The files, each as .pdf, .png and .svg; empty when no trial has completed. Without a cost there is no panel over
        time, and an arm without one is not in it.
    """
    if reached is None or COMPLETED not in set(reached.frame["status"]):
        return []
    paths = []
    with matplotlib.rc_context(STYLE):
        for number, costs in enumerate(reached.costs.values() or [{}]):
            name = f"time_to_target_{number + 1}" if number else "time_to_target"
            paths += save(_curves(reached, costs), folder, name)
        if len(reached.grid()):
            paths += save(_over_targets(reached), folder, "epochs_over_target")
    return paths


def _curves(reached: Reached, costs: Mapping[str, Cost | None]) -> Figure:
    panels = [(metric, axis) for metric, axis in reached.figure.panels if axis == "epochs" or any(costs.values())]
    figure = Figure(figsize=(max(4.2, 3.6 * len(panels)), 3.4), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (metric, axis) in zip(row, panels, strict=True):
        seconds = {label: cost.epoch.median for label, cost in costs.items() if cost} if axis == "time" else None
        _panel(axes, reached, metric, seconds)
        if seconds is not None:
            axes.set_title(next(cost.hardware for cost in costs.values() if cost), fontsize=8)
    _legend(figure, row)
    return figure


def _panel(axes: Axes, reached: Reached, metric: str, seconds: Mapping[str, float] | None) -> None:
    """Each arm's mean over seeds with its 95% t-interval, over epochs or over what these take."""
    scale = 100 if "accuracy" in metric else 1
    size, unit = (1.0, "epoch") if seconds is None else _unit(reached, seconds)
    done = reached.by_epoch.query("status == @COMPLETED")
    for label, name, color, dashes in _styled(reached):
        own = done.query("arm == @label")
        if own.empty or (seconds is not None and label not in seconds):
            continue
        table = pd.DataFrame([vars(summarize(scale * values)) for _, values in own.groupby("epoch")[metric]])
        per_epoch = 1.0 if seconds is None else seconds[label] / size
        x = per_epoch * (1 + table.index.to_numpy())
        axes.plot(x, table["mean"], color=color, linestyle=dashes, linewidth=1.3, label=name)
        axes.fill_between(x, table["ci_lo"], table["ci_hi"], color=color, alpha=0.12, linewidth=0)
        if metric == reached.figure.metric and reached.target:
            median = reached.time(label).median
            axes.plot([per_epoch * median], [scale * reached.target.value], "o", color=color, markersize=4)
    if metric == reached.figure.metric and reached.target:
        axes.axhline(scale * reached.target.value, color="0.3", linewidth=0.8, linestyle=(0, (1, 2)))
    if "loss" in metric:
        axes.set_yscale("log")
    axes.set_xlabel(unit if seconds is None else f"{unit}, measured alone")
    axes.set_ylabel(metric.replace("/", " ") + (" (%)" if scale == 100 else ""))


def _unit(reached: Reached, seconds: Mapping[str, float]) -> tuple[float, str]:
    """The unit in which the longest run is a number above 2."""
    longest = max(reached.arms[label].config.epochs * value for label, value in seconds.items())
    return next((unit for unit in UNITS if longest >= 2 * unit[0]), UNITS[-1])


def _over_targets(reached: Reached) -> Figure:
    """Median epochs to each of a grid of targets; a line ends where fewer than half of an arm's runs go."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for label, name, color, dashes in _styled(reached):
        times = [(100 * target, reached.time(label, target).median) for target in reached.grid()]
        points = [point for point in times if not math.isnan(point[1])]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.3, label=name)
    if reached.target:
        axes.axvline(100 * reached.target.value, color="0.3", linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_xlabel(f"{reached.figure.metric.replace('/', ' ')} to reach (%)")
    axes.set_ylabel("epochs, Kaplan-Meier median")
    _legend(figure, [axes])
    return figure


def _styled(reached: Reached) -> Iterator[tuple[str, str, Any, Any]]:
    """Each arm's label, name in the legend, colour and dashes."""
    for (label, trial), (color, dashes) in zip(reached.arms.items(), itertools.cycle(STYLES), strict=False):
        yield label, _name(label, trial), color, dashes


def _name(label: str, trial: Trial) -> str:
    return display(trial.arm.optimizer) + label.removeprefix(trial.arm.optimizer)


def _legend(figure: Figure, row: Any) -> None:
    entries = {label: handle for axes in row for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
