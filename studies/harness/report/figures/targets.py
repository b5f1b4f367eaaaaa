"""Figures of times to a target: curves over epochs and time, epochs over the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from studies.harness.evidence.costs import Cost
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.evidence.targets import Times
from studies.harness.report.figures import means
from studies.harness.report.figures.layout import legend
from studies.harness.report.figures.means import Curve
from studies.harness.report.figures.style import (
    STYLE,
    Style,
    display,
    entries,
    integer_axis,
    lines,
    panels,
    save,
    write_decision,
)

TARGET: Any = {"color": "0.3", "linewidth": 0.8, "linestyle": (0, (1, 2))}
CENSORED: Any = {
    "marker": ">", "markersize": 5, "markerfacecolor": "white", "markeredgewidth": 1, "linestyle": "",
}  # fmt: skip
ROW = 9  # the distance of marks above each other, in points
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
    figure, (row,) = panels((max(4.8, 3.6 * len(drawn)), 3.6), 1, len(drawn))
    for axes, (metric, axis) in zip(row, drawn, strict=True):
        seconds = {label: cost.epoch.median for label, cost in measured.items()}
        _panel(axes, times, metric, seconds if axis == "time" else None)
        if axis == "time":
            axes.set_title(next(iter(measured.values())).hardware, fontsize=8)
    arms = times.evidence.arms
    title = means.over_seeds(arms.loc[arms["n"] > 0, "n"])
    legend(figure, entries(row), 2 if len(drawn) == 1 else 3, title)
    write_decision(figure, times.evidence.claims)
    return figure


def _panel(axes: Axes, times: Times, metric: str, seconds: Mapping[str, float] | None) -> None:
    """Draw each arm's mean over seeds with its 95% t-interval.

    The horizontal axis is the epoch if `seconds` is None. Otherwise it is the time: epochs times
    the `seconds` per epoch of each arm.
    """
    size, name = (1.0, "epoch") if seconds is None else _unit(times, seconds)
    shown = times.arms if seconds is None else seconds
    per_epoch = {label: seconds[label] / size if seconds else 1.0 for label in shown}
    tables = means.tables(times.evidence.completed_epochs, metric)
    curves = [
        Curve(arm, style, tables[label], per_epoch[label] * (1 + tables[label].index.to_numpy()))
        for label, arm, style in _styled(times)
        if label in tables and label in per_epoch
    ]
    higher = higher_is_better(metric)
    means.set_scale(axes, [curve.table for curve in curves], higher)
    means.draw_curves(axes, curves, higher)
    if metric == times.metric and times.target:
        _times(axes, times, per_epoch)
    if seconds is None:
        integer_axis(axes)
    axes.set_xlabel(name if seconds is None else f"{name} (measured without other load)")
    axes.set_ylabel(unit(metric).axis)


def _times(axes: Axes, times: Times, per_epoch: Mapping[str, float]) -> None:
    """Draw the target, the median time of each arm, and the trials that do not reach the target.

    These trials are censored: an open triangle at the last epoch of the arm has their number.
    """
    height, censored = unit(times.metric).scale * times.value, 0
    axes.axhline(height, label="target", **TARGET)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, height), max(high, height))
    axes.set_xlim(right=max(per_epoch[arm] * times.arms[arm].config.epochs for arm in per_epoch))
    for label, _, (color, _) in _styled(times):
        if label not in per_epoch:
            continue
        time = times.time(label)
        axes.plot([per_epoch[label] * time.median], [height], "o", color=color, markersize=4)
        if missed := time.n - time.hits:
            last = per_epoch[label] * times.arms[label].config.epochs
            text = f"{missed} of {time.n}"
            _mark_censored(axes, (last, height), text, color, censored, higher=times.higher)
            censored += 1
    axes.plot([], [], "o", color="0.3", markersize=4, label="median time to the target")
    if censored:
        axes.plot([], [], label="trials that do not reach it", **{"color": "0.3", **CENSORED})


def _mark_censored(
    axes: Axes, point: tuple[float, float], text: str, color: str, row: int, *, higher: bool
) -> None:
    """Mark censored trials; the marks of several arms are above each other."""
    shift = ROW * row * (-1 if higher else 1)  # in points, to the side of the worse values
    place = axes.transData + ScaledTranslation(0, shift / 72, axes.figure.dpi_scale_trans)
    x, y = point
    axes.plot([x], [y], color=color, transform=place, clip_on=False, **CENSORED)
    font = {"color": color, "fontsize": 7.5, "va": "center"}
    axes.annotate(text, (x, y), (6, 0), place, "offset points", annotation_clip=False, **font)


def _unit(times: Times, seconds: Mapping[str, float]) -> tuple[float, str]:
    """Return the largest unit of which the longest run takes at least 2: its seconds and name."""
    longest = max(times.arms[label].config.epochs * value for label, value in seconds.items())
    return next((unit for unit in UNITS if longest >= 2 * unit[0]), UNITS[-1])


def _over_targets(times: Times) -> Figure:
    """Draw the median epochs to reach each of a grid of targets.

    The line of an arm ends where fewer than half of its trials reach the target.
    """
    figure, ((axes,),) = panels((4.8, 3.6))
    scale, grid = unit(times.metric).scale, times.grid()
    medians = {
        label: pd.Series({scale * target: times.time(label, target).median for target in grid})
        for label in times.arms
    }
    ended = False
    for label, arm, (color, dashes) in _styled(times):
        points = medians[label].dropna()
        look = {"color": color, "linestyle": dashes, "linewidth": means.WIDTH}
        means.draw_line(axes, points.index, points, label=arm, **look)
        if 0 < len(points) < len(grid):
            axes.plot(points.index[-1], points.iloc[-1], **{"color": color, **CENSORED})
            ended = True
    if ended:
        label = "beyond it: reached by fewer than half"
        axes.plot([], [], label=label, **{"color": "0.3", **CENSORED})
    if times.target:
        axes.axvline(scale * times.value, label="target of the study", **TARGET)
    axes.set_xlabel(f"target: {unit(times.metric).axis}")
    if not times.higher:
        axes.invert_xaxis()  # better targets are on the right
    axes.set_ylabel("median epochs (Kaplan-Meier)")
    legend(figure, entries([axes]), 2)
    return figure


def _styled(times: Times) -> Iterator[tuple[str, str, Style]]:
    """Yield the label, the name in the legend and the style of each arm."""
    optimizers = [trial.arm.optimizer for trial in times.arms.values()]
    for label, optimizer, style in zip(times.arms, optimizers, lines(optimizers), strict=True):
        yield label, display(optimizer) + label.removeprefix(optimizer), style
