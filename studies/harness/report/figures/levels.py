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
from studies.harness.evidence.metrics import higher_is_better, unit
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
# The axis extends from the median of the means to worse values by at most this multiple of the
# distance between the median and the best mean, so that very bad levels do not compress the rest.
BEYOND_MEDIAN = 4
SMALLEST = 0.005  # smallest range of the axis, relative to the median of the means
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
    completed = [arm for arm in [*arms, *bands] if arm["n"]]
    low, high = _limits(completed, evidence.metric)
    names = sorted({series(arm, factor, evidence.factors) for arm in arms})
    styles = dict(zip(names, itertools.cycle(SERIES), strict=False))
    for axes, optimizer in zip(grid.flat, optimizers, strict=False):
        axes.set_ylim(low, high)
        for arm, (color, dashes) in zip(bands, REFERENCES, strict=False):
            _band(axes, arm, unit(evidence.metric).scale, color, dashes)
        members = [arm for arm in arms if arm["optimizer"] == optimizer]
        _panel(axes, evidence, factor, members, styles)
        axes.set_title(display(optimizer))
        axes.set_xlabel(factor.replace("_", " "))
    for axes in grid[:, 0]:
        axes.set_ylabel(unit(evidence.metric).axis)
    legend(figure, grid.flat[: len(optimizers)], columns + 1)
    return figure


def _limits(arms: Sequence[ArmRow], metric: str) -> tuple[float, float]:
    """Return the limits of the axis.

    They contain all means and intervals, except very bad means and the ends of very wide intervals.
    """
    scale, ceiling = unit(metric).scale, math.inf
    sign = 1 if higher_is_better(metric) else -1  # after multiplication, larger values are better
    means = [sign * scale * arm["mean"] for arm in arms]
    if unit(metric).percent:
        ceiling = 100.0 if sign > 0 else 0.0
    middle, top = median(means), max(means)
    smallest = SMALLEST * abs(middle)
    bottom = max(min(means), middle - BEYOND_MEDIAN * max(top - middle, smallest))
    ends = [
        sign * scale * arm[end]
        for arm, mean in zip(arms, means, strict=True)
        for end in ("ci_lo", "ci_hi")
        if mean >= bottom and not math.isnan(arm[end])
    ]
    room = INTERVALS * max(top - bottom, smallest)
    low = max(min([bottom, *ends]), bottom - room)
    high = min(max([top, *ends]), top + room, ceiling)
    margin = 0.04 * max(high - low, smallest)
    low, high = sorted([sign * (low - 2 * margin), sign * (high + margin)])
    return low, high


def _band(axes: Axes, arm: ArmRow, scale: float, color: str, dashes: Any) -> None:
    """Draw the mean of a reference as a horizontal line and its interval as a band."""
    if not math.isnan(arm["ci_lo"]):
        low, high = scale * arm["ci_lo"], scale * arm["ci_hi"]
        axes.axhspan(low, high, color=color, alpha=0.13, linewidth=0, zorder=0.5)
    look = {"color": color, "linestyle": dashes, "linewidth": 1.4}
    axes.axhline(scale * arm["mean"], label=display(arm["optimizer"]), **look)


def _panel(
    axes: Axes, evidence: Evidence, factor: str, arms: Sequence[ArmRow], styles: Mapping[str, Any]
) -> None:
    """Draw the lines of an optimizer, with a horizontal offset so that none hides another."""
    if not arms:
        axes.set_xticks([])
        return
    levels = sorted_levels(arm[factor] for arm in arms)
    at = dict(zip(levels, _positions(axes, levels), strict=True))
    scale, lines = unit(evidence.metric).scale, dict[str, list[ArmRow]]()
    for arm in sorted(arms, key=lambda arm: at[arm[factor]]):
        lines.setdefault(series(arm, factor, evidence.factors), []).append(arm)
    for i, (name, members) in enumerate(sorted(lines.items())):
        shift = (i - (len(lines) - 1) / 2) * OFFSET
        completed = [arm for arm in members if arm["n"]]
        title = name or ("corrected" if "as-released" in styles else "")
        x = [at[arm[factor]] for arm in completed]
        _line(axes, x, completed, scale, title, styles[name], shift)
        for arm in members:
            x, values = at[arm[factor]], evidence.by_seed[arm["arm"]].dropna()
            y, look = list(scale * values), {"label": "single seeds", **SEEDS}
            axes.plot([x] * len(y), y, ".", transform=_moved(axes, shift + 0.4 * OFFSET), **look)
            _mark_at_edge(axes, x, arm, evidence.metric, styles[name][0], i)


def _line(
    axes: Axes,
    x: list[float],
    arms: Sequence[ArmRow],
    scale: float,
    name: str,
    style: Any,
    shift: float,
) -> None:
    """Draw the means with their intervals at the levels that have a result."""
    color, dashes, marker = style
    mean = [scale * arm["mean"] for arm in arms]
    ends = [arm["mean"] if math.isnan(arm["ci_hi"]) else arm["ci_hi"] for arm in arms]
    half = [scale * (end - arm["mean"]) for arm, end in zip(arms, ends, strict=True)]
    label = f"{name}{': ' if name else ''}mean, 95% t-interval"
    look = {"color": color, "linestyle": dashes, "linewidth": 1.4}
    look |= {"marker": marker, "markersize": 4.5, "capsize": 3}
    axes.errorbar(x, mean, half, transform=_moved(axes, shift), label=label, **look)


def _mark_at_edge(axes: Axes, x: float, arm: ArmRow, metric: str, color: str, row: int) -> None:
    """Mark an arm at the end of the vertical axis where the values are worst.

    A cross marks trials without a result, with their number k/n. An arrow marks a mean beyond the
    axis, with its value.
    """
    higher, scale = higher_is_better(metric), unit(metric).scale
    y = 0.06 + 0.1 * row if higher else 0.94 - 0.1 * row
    marks = []
    if lost := _lost(arm):
        marks.append(("x", f"{lost}/{arm['planned']}", "diverged or failed (k of n trials)"))
    low, high = axes.get_ylim()
    if arm["n"] and not low <= scale * arm["mean"] <= high:
        text = f"{scale * arm['mean']:.0f}" if unit(metric).percent else f"{arm['mean']:.2g}"
        marks.append(("v" if higher else "^", text, "mean beyond the axis"))
    for column, (marker, text, label) in enumerate(marks):
        edge = _moved(axes, column * 22 / 72, axes.get_xaxis_transform())
        look = {"color": color, "transform": edge, "clip_on": False}
        axes.plot([x], [y], marker, markersize=5, linestyle="", label=label, **look)
        font = {"color": color, "fontsize": 7.5, "va": "center"}
        axes.annotate(text, (x, y), (5, 0), edge, "offset points", **font)


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
