"""The figure of an ablation: a metric over the levels of a factor, one panel per optimizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import finite
from studies.harness.evidence.ledger import series
from studies.harness.evidence.levels import are_numbers, sorted_levels
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.evidence.status import LOST
from studies.harness.report.figures import references as bands
from studies.harness.report.figures.layout import legend
from studies.harness.report.figures.limits import ArmRow, limits
from studies.harness.report.figures.means import BEYOND, mark_ends, over_seeds
from studies.harness.report.figures.style import (
    BLUE,
    BOX,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    display,
    entries,
    panels,
    save,
    write_decision,
)

# The lines of a panel. Markers and dashes distinguish them in grayscale.
SERIES = ((BLUE, "-", "o"), (SKY, "--", "s"), (VERMILION, ":", "^"), (PURPLE, "-.", "D"))
MANY = 6  # with more levels than this, the labels of the ticks would overlap at the usual size
SEEDS = {"color": "0.55", "linewidth": 0.5, "markersize": 3.5, "markeredgewidth": 0, "zorder": 1.5}
ROW = 0.14  # the height of the marks of a line, as a fraction of the panel
ENDINGS = "diverged or failed"
OFFSET = 7 / 72  # horizontal distance of the lines of a panel, in inches
# The axis is logarithmic if the largest level is at least this multiple of the smallest.
LOG_FROM = 8
# Levels that are not all positive are evenly spaced if the largest absolute value is more than this
# multiple of the smallest one that is not zero.
EVEN_FROM = 100


@matplotlib.rc_context(STYLE)
def draw(
    evidence: Evidence,
    factor: str,
    optimizers: Sequence[str],
    references: Sequence[str],
    folder: Path,
) -> list[Path]:
    """Draw `<factor>.pdf`, `.png` and `.svg`; nothing without a panel or a completed trial.

    There is one panel for each of the `optimizers` that has a trial with a level that ended. Levels
    with trials that ended without a result are marked. The arms without the factor are references:
    first those of the `references`, then all others. They are omitted if they have no completed
    trial.
    """
    arms: list[Any] = [arm for arm in evidence.arms.to_dict("records") if arm["n"] or _lost(arm)]
    if not any(arm["n"] for arm in arms):
        return []
    with_factor = [arm for arm in arms if not pd.isna(arm.get(factor))]
    without_factor = {
        arm["optimizer"]: arm for arm in reversed(arms) if arm["n"] and pd.isna(arm.get(factor))
    }
    order = [name for name in references if name in without_factor]
    selected = [without_factor[name] for name in dict.fromkeys([*order, *without_factor])]
    names = {arm["optimizer"] for arm in with_factor}
    titles = [name for name in optimizers if name in names]
    if not titles:
        return []
    return save(_figure(evidence, factor, titles, selected, with_factor), folder, factor)


def _lost(arm: ArmRow) -> dict[str, int]:
    """Return the number of trials that ended without a result, by status."""
    return {status: arm[status] for status in LOST if arm[status]}


def _figure(
    evidence: Evidence,
    factor: str,
    optimizers: Sequence[str],
    references: Sequence[ArmRow],
    arms: Sequence[ArmRow],
) -> Figure:
    columns = len(optimizers) if len(optimizers) <= 3 else 2
    rows = math.ceil(len(optimizers) / columns)
    figure, grid = panels((max(3.6, 3.3 * columns), 2.4 * rows + 0.5), rows, columns, sharey=True)
    for axes in grid.flat[len(optimizers) :]:
        axes.set_axis_off()
    names = sorted({series(arm, factor, evidence.factors) for arm in arms})
    styles = dict(zip(names, itertools.cycle(SERIES), strict=False))
    grid[0, 0].set_ylim(*_limits(evidence, arms, references))
    margin = ROW * len(styles) + 0.1 if any(_lost(arm) for arm in arms) else 0.0
    handles: dict[str, Any] = {}
    for axes, optimizer in zip(grid.flat, optimizers, strict=False):
        handles = bands.draw(axes, references, evidence.metric, margin)
        members = [arm for arm in arms if arm["optimizer"] == optimizer]
        _panel(axes, evidence, factor, members, styles)
        axes.set_title(display(optimizer))
        axes.set_xlabel(factor.replace("_", " "))
    for axes in grid[:, 0]:
        axes.set_ylabel(unit(evidence.metric).axis)
    title = over_seeds(arm["n"] for arm in [*arms, *references] if arm["n"])
    marks = entries(grid.flat[: len(optimizers)])
    beyond = {BEYOND: marks.pop(BEYOND)} if BEYOND in marks else {}
    legend(figure, {**marks, **handles, **beyond}, 2 * min(columns, 2), title)
    write_decision(figure, evidence.claims)
    return figure


def _limits(
    evidence: Evidence, arms: Sequence[ArmRow], references: Sequence[ArmRow]
) -> tuple[float, float]:
    """Return the limits of the vertical axis of all panels."""
    completed = [arm for arm in arms if arm["n"]]
    seeds = {arm["arm"]: list(evidence.by_seed[arm["arm"]]) for arm in completed}
    subjects = completed or references
    return limits(subjects, evidence.metric, references=references, seeds=seeds)


def _panel(
    axes: Axes, evidence: Evidence, factor: str, arms: Sequence[ArmRow], styles: Mapping[str, Any]
) -> None:
    """Draw the lines of an optimizer, with a horizontal offset so that none hides another."""
    levels = sorted_levels(arm[factor] for arm in arms)
    at = dict(zip(levels, _positions(axes, levels), strict=True))
    lines: dict[str, list[ArmRow]] = {}
    for arm in sorted(arms, key=lambda arm: at[arm[factor]]):
        lines.setdefault(series(arm, factor, evidence.factors), []).append(arm)
    crowded = len(levels) > MANY or len(lines) > 1
    for i, (name, members) in enumerate(sorted(lines.items())):
        shift = (i - (len(lines) - 1) / 2) * OFFSET
        title = name or (
            "corrected" if "as-released" in styles else f"each {factor.replace('_', ' ')}"
        )
        x = [at[arm[factor]] for arm in members]
        _line(axes, x, members, unit(evidence.metric).scale, title, styles[name], shift)
        _seeds(axes, evidence, x, members, shift)
        for arm in members:
            color, *_ = styles[name]
            _mark_at_edge(axes, at[arm[factor]], arm, evidence.metric, color, i, crowded)


def _seeds(
    axes: Axes, evidence: Evidence, x: list[float], arms: Sequence[ArmRow], shift: float
) -> None:
    """Join the results of each seed by a line, which is broken where a trial has no result."""
    table: Any = evidence.by_seed[[arm["arm"] for arm in arms]]
    moved = _moved(axes, shift + 0.4 * OFFSET)
    for line in unit(evidence.metric).scale * finite(table).to_numpy():
        if not np.isnan(line).all():
            axes.plot(x, line, ".-", transform=moved, label="each seed", **SEEDS)


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
    drawn = [(place, arm) for place, arm in zip(x, arms, strict=True) if arm["n"]]
    if not drawn:
        return  # an empty line would have an entry in the legend
    mean = [scale * arm["mean"] for _, arm in drawn]
    ends = [
        [scale * sign * (arm[end] - arm["mean"]) for _, arm in drawn]
        for sign, end in ((-1, "ci_lo"), (1, "ci_hi"))
    ]
    look = {"color": color, "linestyle": dashes, "linewidth": 1.4, "zorder": 2.5}
    look |= {"marker": marker, "markersize": 4.5, "capsize": 3}
    places = [place for place, _ in drawn]
    axes.errorbar(
        places, mean, np.nan_to_num(ends), transform=_moved(axes, shift), label=name, **look
    )
    for place, arm in drawn:
        interval = scale * arm["ci_lo"], scale * arm["ci_hi"]
        edge = _moved(axes, shift, axes.get_xaxis_transform())
        mark_ends(axes, place, interval, color, transform=edge)


def _mark_at_edge(
    axes: Axes, x: float, arm: ArmRow, metric: str, color: str, row: int, crowded: bool
) -> None:
    """Mark an arm at the end of the vertical axis where the values are worst.

    A cross marks trials without a result, with their number. An arrow marks a mean beyond the axis,
    with its value. An arm with both has a cross, with both texts.

    Args:
        axes: The panel.
        x: The position of the level.
        arm: The arm.
        metric: The metric.
        color: The colour of the mark.
        row: The number of the line, so that the marks of several lines are above each other.
        crowded: True if there is no room for the status beside the number.
    """
    higher = higher_is_better(metric)
    y = 0.05 + ROW * row if higher else 0.95 - ROW * row
    marker, label, texts = "v" if higher else "^", "mean beyond the axis", []
    if lost := _lost(arm):
        marker, label = "x", f"trials that {ENDINGS}"
        status = [] if crowded or len(lost) > 1 else [" ".join(lost)]
        texts = [f"{sum(lost.values())} of {arm['planned']}", *status]
    if arm["n"] and not bands.is_visible(axes, arm, metric):
        texts.append(f"{'mean ' if lost else ''}{bands.short(arm['mean'], metric)}")
    if texts:
        edge = axes.get_xaxis_transform()
        look = {"color": color, "transform": edge, "clip_on": False}
        axes.plot([x], [y], marker, markersize=5, linestyle="", label=label, **look)
        font = {"color": color, "fontsize": 7, "ha": "center", "linespacing": 1, "bbox": BOX}
        shift, side = (4, "bottom") if higher else (-4, "top")
        axes.annotate("\n".join(texts), (x, y), (0, shift), edge, "offset points", va=side, **font)


def _moved(axes: Any, inches: float, coordinates: Any = None) -> Any:
    """Return coordinates (by default those of the data) shifted to the right."""
    return (coordinates or axes.transData) + ScaledTranslation(
        inches, 0, axes.figure.dpi_scale_trans
    )


def _positions(axes: Axes, levels: list[Any]) -> list[float]:
    """Return the positions of the levels on the axis and add a tick at each.

    Numbers are drawn to scale, unless a logarithmic axis cannot show them and they would lie on one
    another on a linear axis. Other levels are spaced evenly.
    """
    numbers = are_numbers(levels)
    to_scale = numbers and not _need_even_spacing([float(level) for level in levels])
    x = [float(level) for level in (levels if to_scale else range(len(levels)))]
    axes.set_xticks(x, [f"{level:g}" if numbers else str(level) for level in levels])
    if to_scale and min(x) > 0 and max(x) / min(x) >= LOG_FROM:
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{level:g}" for level in levels])
        axes.xaxis.set_minor_locator(NullLocator())
        if len(x) > MANY:
            axes.tick_params(axis="x", labelsize=7)
        margin = (max(x) / min(x)) ** 0.12
        axes.set_xlim(min(x) / margin, max(x) * margin)
    else:
        margin = 0.12 * (max(x) - min(x)) or 1.0
        axes.set_xlim(min(x) - margin, max(x) + margin)
    return x


def _need_even_spacing(levels: Sequence[float]) -> bool:
    """Return True if levels are not all positive and span more than two decades."""
    sizes = [abs(level) for level in levels if level]
    return min(levels) <= 0 and bool(sizes) and max(sizes) > EVEN_FROM * min(sizes)
