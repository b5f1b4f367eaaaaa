"""Figures of times to a target: curves over epochs and time, epochs over the target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.harness.evidence.arms import mean_curves
from studies.harness.evidence.costs import Cost
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.evidence.targets import Times
from studies.harness.report.figures.style import (
    REFERENCES,
    STYLE,
    SUBJECT,
    display,
    legend,
    panels,
    save,
    set_logarithmic,
)

# The styles of the arms in the order of the plan; the first arm is the subject of the study.
STYLES: Any = (
    (SUBJECT, "-"),
    *REFERENCES,
    ("#56B4E9", (0, (1, 1))),
    ("black", "-"),
    ("0.45", (0, (8, 2))),
)
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


@matplotlib.rc_context(STYLE)
def draw(times: Times, contents: Sequence[tuple[str, str]], folder: Path) -> list[Path]:
    """Draw `time_to_target` and `epochs_over_target`; nothing if no trial has completed.

    There is one `time_to_target` for each hardware; the second is `time_to_target_2`. Each of the
    `contents` is a panel: a metric, and its horizontal axis, `epochs` or `time`. Arms without a cost
    are omitted from the panels over time; these panels are omitted if no arm has a cost.
    """
    if times.evidence.completed_epochs.empty:
        return []
    paths = []
    for number, costs in enumerate(times.costs.machines.values() or [{}]):
        name = f"time_to_target_{number + 1}" if number else "time_to_target"
        paths += save(_curves(times, contents, costs), folder, name)
    return paths + (
        save(_over_targets(times), folder, "epochs_over_target") if times.grid() else []
    )


def _curves(
    times: Times, contents: Sequence[tuple[str, str]], costs: Mapping[str, Cost | None]
) -> Figure:
    measured = {label: cost for label, cost in costs.items() if cost}
    drawn = [(metric, axis) for metric, axis in contents if axis == "epochs" or measured]
    figure, (row,) = panels((max(4.2, 3.6 * len(drawn)), 3.4), 1, len(drawn))
    for axes, (metric, axis) in zip(row, drawn, strict=True):
        seconds = {label: cost.epoch.median for label, cost in measured.items()}
        _panel(axes, times, metric, seconds if axis == "time" else None)
        if axis == "time":
            axes.set_title(next(iter(measured.values())).hardware, fontsize=8)
    legend(figure, row, 2 if len(drawn) == 1 else 3)
    return figure


def _panel(axes: Axes, times: Times, metric: str, seconds: Mapping[str, float] | None) -> None:
    """Draw each arm's mean over seeds with its 95% t-interval.

    The horizontal axis is the epoch if `seconds` is None. Otherwise it is the time: epochs times
    the `seconds` per epoch of each arm.
    """
    scale = unit(metric).scale
    size, name = (1.0, "epoch") if seconds is None else _unit(times, seconds)
    curves = mean_curves(times.evidence.completed_epochs, metric)
    for label, arm, color, dashes in _styled(times):
        if label not in curves or (seconds is not None and label not in seconds):
            continue
        table = scale * curves[label]
        per_epoch = 1.0 if seconds is None else seconds[label] / size
        x = per_epoch * (1 + table.index.to_numpy())
        axes.plot(x, table["mean"], color=color, linestyle=dashes, linewidth=1.3, label=arm)
        axes.fill_between(x, table["ci_lo"], table["ci_hi"], color=color, alpha=0.12, linewidth=0)
        if metric == times.metric and times.target:
            median = times.time(label).median
            axes.plot([per_epoch * median], [scale * times.value], "o", color=color, markersize=4)
    if metric == times.metric and times.target:
        look = {"color": "0.3", "linewidth": 0.8, "linestyle": (0, (1, 2))}
        axes.axhline(scale * times.value, label="target", **look)
        axes.plot([], [], "o", color="0.3", markersize=4, label="median time to the target")
    if not higher_is_better(metric):
        set_logarithmic(axes, [scale * x for table in curves.values() for x in table["mean"]])
    axes.set_xlabel(name if seconds is None else f"{name} (measured without other load)")
    axes.set_ylabel(unit(metric).axis)


def _unit(times: Times, seconds: Mapping[str, float]) -> tuple[float, str]:
    """Return the largest unit of which the longest run takes at least 2: its seconds and name."""
    longest = max(times.arms[label].config.epochs * value for label, value in seconds.items())
    return next((unit for unit in UNITS if longest >= 2 * unit[0]), UNITS[-1])


def _over_targets(times: Times) -> Figure:
    """Draw the median epochs to reach each of a grid of targets.

    The line of an arm ends where fewer than half of its runs reach the target.
    """
    figure, ((axes,),) = panels((4.6, 3.6))
    scale = unit(times.metric).scale
    for label, arm, color, dashes in _styled(times):
        medians = [(scale * target, times.time(label, target).median) for target in times.grid()]
        points = [point for point in medians if not math.isnan(point[1])]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.3, label=arm)
    if times.target:
        look = {"color": "0.3", "linewidth": 0.8, "linestyle": (0, (1, 2))}
        axes.axvline(scale * times.value, label="target of the study", **look)
    axes.set_xlabel(f"target: {unit(times.metric).axis}")
    if not times.higher:
        axes.invert_xaxis()  # better targets are on the right
    axes.set_ylabel("median epochs (Kaplan-Meier)")
    legend(figure, [axes], 2)
    return figure


def _styled(times: Times) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield the label, the name in the legend, the colour and the dashes of each arm."""
    for (label, trial), (color, dashes) in zip(
        times.arms.items(), itertools.cycle(STYLES), strict=False
    ):
        optimizer = trial.arm.optimizer
        yield label, display(optimizer) + label.removeprefix(optimizer), color, dashes
