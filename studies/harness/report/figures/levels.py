"""The figure of an ablation: a metric over the levels of a factor, one panel per optimizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.ledger import series
from studies.harness.evidence.levels import are_numbers, sorted_levels
from studies.harness.evidence.metrics import words
from studies.harness.evidence.status import LOST
from studies.harness.report.figures.style import (
    REFERENCES,
    STYLE,
    SUBJECT,
    display,
    legend,
    panels,
    save,
)

ArmRow = dict[Any, Any]  # a row of `Evidence.arms`
# The lines of a panel. Markers and dashes distinguish them in grayscale.
SERIES = ((SUBJECT, "-", "o"), ("#56B4E9", "--", "s"), ("black", ":", "^"), ("0.5", "-.", "D"))
MANY = 6  # with more levels than this, the labels of the ticks would overlap at the usual size
SEEDS = {"color": "0.4", "markersize": 4, "markeredgewidth": 0, "alpha": 0.9}
OFFSET = 7 / 72  # horizontal distance of the lines of a panel, in inches
# The axis extends below the median of the means by at most this multiple of the distance between the
# median and the best mean, so that levels with very low means do not compress the rest.
BELOW_MEDIAN = 4
INTERVALS = 1.5  # wide intervals extend the axis by at most this multiple of its range
# The axis is logarithmic if the largest level is at least this multiple of the smallest.
LOG_FROM = 8


@matplotlib.rc_context(STYLE)
def draw(
    evidence: Evidence,
    factor: str,
    optimizers: Sequence[str],
    references: Sequence[str],
    folder: Path,
) -> list[Path]:
    """Draw `<factor>.pdf`, `.png` and `.svg`; nothing if no trial has completed.

    There is one panel for each of the `optimizers` that has a trial that ended. Levels with trials
    that ended without a result are marked. The `references` are optimizers without the factor;
    they are omitted if they have no completed trial.
    """
    arms: list[Any] = [arm for arm in evidence.arms.to_dict("records") if arm["n"] or _lost(arm)]
    if not any(arm["n"] for arm in arms):
        return []
    with_factor = [arm for arm in arms if not pd.isna(arm.get(factor))]
    without_factor = {
        arm["optimizer"]: arm for arm in reversed(arms) if arm["n"] and pd.isna(arm.get(factor))
    }
    bands = [without_factor[name] for name in references if name in without_factor]
    names = {arm["optimizer"] for arm in with_factor}
    titles = [name for name in optimizers if name in names] or [""]
    return save(_figure(evidence, factor, titles, bands, with_factor), folder, factor)


def _lost(arm: ArmRow) -> int:
    """Return the number of trials that ended without a result."""
    return sum(arm[status] for status in LOST)


def _figure(
    evidence: Evidence,
    factor: str,
    optimizers: Sequence[str],
    bands: Sequence[ArmRow],
    arms: Sequence[ArmRow],
) -> Figure:
    columns = len(optimizers) if len(optimizers) <= 3 else 2
    rows = math.ceil(len(optimizers) / columns)
    figure, grid = panels((max(3.6, 3.3 * columns), 2.4 * rows + 0.5), rows, columns, sharey=True)
    for axes in grid.flat[len(optimizers) :]:
        axes.set_axis_off()
    low, high = _limits([arm for arm in [*arms, *bands] if arm["n"]])
    names = sorted({series(arm, factor, evidence.factors) for arm in arms})
    styles = dict(zip(names, itertools.cycle(SERIES), strict=False))
    for axes, optimizer in zip(grid.flat, optimizers, strict=False):
        axes.set_ylim(low, high)
        for arm, (color, dashes) in zip(bands, REFERENCES, strict=False):
            _band(axes, arm, color, dashes)
        members = [arm for arm in arms if arm["optimizer"] == optimizer]
        _panel(axes, evidence, factor, members, styles)
        axes.set_title(display(optimizer))
        axes.set_xlabel(factor.replace("_", " "))
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{words(evidence.metric)} (%)")
    legend(figure, grid.flat[: len(optimizers)], columns + 1)
    return figure


def _limits(arms: Sequence[ArmRow]) -> tuple[float, float]:
    """Return the limits of the axis.

    They contain all means and intervals, except very low means and the ends of very wide intervals.
    """
    means = [100 * arm["mean"] for arm in arms]
    middle, top = median(means), max(means)
    bottom = max(min(means), middle - BELOW_MEDIAN * max(top - middle, 0.5))
    inside = [arm for arm in arms if 100 * arm["mean"] >= bottom]
    intervals = [(100 * arm["ci_lo"], 100 * arm["ci_hi"]) for arm in inside]
    ends = [end for interval in intervals for end in interval if not math.isnan(end)]
    room = INTERVALS * max(top - bottom, 0.5)
    low = max(min([bottom, *ends]), bottom - room)
    high = min(max([top, *ends]), top + room, 100.0)
    margin = 0.04 * max(high - low, 0.5)
    return low - 2 * margin, high + margin


def _band(axes: Axes, arm: ArmRow, color: str, dashes: Any) -> None:
    """Draw the mean of a reference as a horizontal line and its interval as a band."""
    if not math.isnan(arm["ci_lo"]):
        low, high = 100 * arm["ci_lo"], 100 * arm["ci_hi"]
        axes.axhspan(low, high, color=color, alpha=0.13, linewidth=0, zorder=0.5)
    look = {"color": color, "linestyle": dashes, "linewidth": 1.4}
    axes.axhline(100 * arm["mean"], label=display(arm["optimizer"]), **look)


def _panel(
    axes: Axes, evidence: Evidence, factor: str, arms: Sequence[ArmRow], styles: Mapping[str, Any]
) -> None:
    """Draw the lines of an optimizer, with a horizontal offset so that none hides another."""
    if not arms:
        axes.set_xticks([])
        return
    levels = sorted_levels(arm[factor] for arm in arms)
    at = dict(zip(levels, _positions(axes, levels), strict=True))
    lines: dict[str, list[ArmRow]] = {}
    for arm in sorted(arms, key=lambda arm: at[arm[factor]]):
        lines.setdefault(series(arm, factor, evidence.factors), []).append(arm)
    for i, (name, members) in enumerate(sorted(lines.items())):
        shift = (i - (len(lines) - 1) / 2) * OFFSET
        completed = [arm for arm in members if arm["n"]]
        title = name or ("corrected" if "as-released" in styles else "")
        _line(axes, [at[arm[factor]] for arm in completed], completed, title, styles[name], shift)
        for arm in members:
            x, values = at[arm[factor]], evidence.by_seed[arm["arm"]].dropna()
            y, look = list(100 * values), {"label": "single seeds", **SEEDS}
            axes.plot([x] * len(y), y, ".", transform=_moved(axes, shift + 0.4 * OFFSET), **look)
            _mark_at_bottom(axes, x, arm, styles[name][0], i)


def _line(
    axes: Axes, x: list[float], arms: Sequence[ArmRow], name: str, style: Any, shift: float
) -> None:
    """Draw the means with their intervals at the levels that have a result."""
    color, dashes, marker = style
    mean = [100 * arm["mean"] for arm in arms]
    half = [0.0 if math.isnan(arm["ci_hi"]) else 100 * (arm["ci_hi"] - arm["mean"]) for arm in arms]
    label = f"{name}{': ' if name else ''}mean, 95% t-interval"
    look = {"color": color, "linestyle": dashes, "linewidth": 1.4}
    look |= {"marker": marker, "markersize": 4.5, "capsize": 3}
    axes.errorbar(x, mean, half, transform=_moved(axes, shift), label=label, **look)


def _mark_at_bottom(axes: Axes, x: float, arm: ArmRow, color: str, row: int) -> None:
    """Mark an arm at the bottom of the axis.

    A cross marks trials without a result, with their number k/n. An arrow marks a mean below the
    axis, with its value.
    """
    marks, y = [], 0.06 + 0.1 * row
    if lost := _lost(arm):
        marks.append(("x", f"{lost}/{arm['planned']}", "ended without a result (k of n trials)"))
    if arm["n"] and 100 * arm["mean"] < axes.get_ylim()[0]:
        marks.append(("v", f"{100 * arm['mean']:.0f}", "mean below the axis"))
    for column, (marker, text, label) in enumerate(marks):
        bottom = _moved(axes, column * 22 / 72, axes.get_xaxis_transform())
        look = {"color": color, "transform": bottom, "clip_on": False}
        axes.plot([x], [y], marker, markersize=5, linestyle="", label=label, **look)
        font = {"color": color, "fontsize": 7.5, "va": "center"}
        axes.annotate(text, (x, y), (5, 0), bottom, "offset points", **font)


def _moved(axes: Any, inches: float, coordinates: Any = None) -> Any:
    """Return coordinates (by default those of the data) shifted to the right."""
    return (coordinates or axes.transData) + ScaledTranslation(
        inches, 0, axes.figure.dpi_scale_trans
    )


def _positions(axes: Axes, levels: list[Any]) -> list[float]:
    """Return the positions of the levels on the axis and add a tick at each.

    Numbers are drawn to scale; other levels are spaced evenly.
    """
    numbers = are_numbers(levels)
    x = [float(level) for level in (levels if numbers else range(len(levels)))]
    axes.set_xticks(x, [f"{level:g}" if numbers else str(level) for level in levels])
    if numbers and min(x) > 0 and max(x) / min(x) >= LOG_FROM:
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{level:g}" for level in levels])
        axes.xaxis.set_minor_locator(NullLocator())
        if len(x) > MANY:
            axes.tick_params(axis="x", labelsize=8)
        margin = (max(x) / min(x)) ** 0.12
        axes.set_xlim(min(x) / margin, max(x) * margin)
    else:
        margin = 0.12 * (max(x) - min(x)) or 1.0
        axes.set_xlim(min(x) - margin, max(x) + margin)
    return x
