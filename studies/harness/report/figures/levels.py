"""The figure of an ablation: a metric over a factor's levels, a panel for each optimizer."""

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
# Lines of one panel; marker and dashes distinguish them in grayscale.
SERIES = ((SUBJECT, "-", "o"), ("#56B4E9", "--", "s"), ("black", ":", "^"), ("0.5", "-.", "D"))
MANY = 6  # more levels than this, and the ticks' labels touch at their usual size
SEEDS = {"color": "0.4", "markersize": 4, "markeredgewidth": 0, "alpha": 0.9}
APART = 7 / 72  # inches between the lines of a panel
# The axis reaches below the middle mean by at most this multiple of the distance from it to the best: not to collapsed
# levels. For wide intervals it reaches beyond that range by at most WIDEST times the range.
SQUEEZED = 4
WIDEST = 1.5
LOG_FROM = 8  # levels that span so much are on a logarithmic axis


@matplotlib.rc_context(STYLE)
def draw(
    evidence: Evidence,
    factor: str,
    optimizers: Sequence[str],
    references: Sequence[str],
    folder: Path,
) -> list[Path]:
    """Draw `<factor>.pdf`, `.png` and `.svg`; nothing if no trial has completed.

    A panel for each of the `optimizers` that has a completed or a lost trial; levels with lost trials are marked. The
    `references` are optimizers without the factor; those without a completed trial are left out.
    """
    arms: list[Any] = [arm for arm in evidence.arms.to_dict("records") if arm["n"] or _lost(arm)]
    if not any(arm["n"] for arm in arms):
        return []
    levelled = [arm for arm in arms if not pd.isna(arm.get(factor))]
    plain = {
        arm["optimizer"]: arm for arm in reversed(arms) if arm["n"] and pd.isna(arm.get(factor))
    }
    bands = [plain[name] for name in references if name in plain]
    shown = [name for name in optimizers if any(arm["optimizer"] == name for arm in levelled)] or [
        ""
    ]
    return save(_figure(evidence, factor, shown, bands, levelled), folder, factor)


def _lost(arm: ArmRow) -> int:
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
        _panel(
            axes, evidence, factor, [arm for arm in arms if arm["optimizer"] == optimizer], styles
        )
        axes.set_title(display(optimizer))
        axes.set_xlabel(factor.replace("_", " "))
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{words(evidence.metric)} (%)")
    legend(figure, grid.flat[: len(optimizers)], columns + 1)
    return figure


def _limits(arms: Sequence[ArmRow]) -> tuple[float, float]:
    """Return the axis' limits: around all means and their intervals, unless a collapsed level squeezes the rest."""
    means = [100 * arm["mean"] for arm in arms]
    middle, top = median(means), max(means)
    foot = max(min(means), middle - SQUEEZED * max(top - middle, 0.5))
    shown = [arm for arm in arms if 100 * arm["mean"] >= foot]
    ends = [
        100 * end for arm in shown for end in (arm["ci_lo"], arm["ci_hi"]) if not math.isnan(end)
    ]
    room = WIDEST * max(top - foot, 0.5)
    low, high = max(min([foot, *ends]), foot - room), min(max([top, *ends]), top + room, 100.0)
    margin = 0.04 * max(high - low, 0.5)
    return low - 2 * margin, high + margin


def _band(axes: Axes, arm: ArmRow, color: str, dashes: Any) -> None:
    """Draw a reference: its mean as a line over the whole width, its interval as a shade."""
    if not math.isnan(arm["ci_lo"]):
        axes.axhspan(
            100 * arm["ci_lo"], 100 * arm["ci_hi"], color=color, alpha=0.13, linewidth=0, zorder=0.5
        )
    axes.axhline(
        100 * arm["mean"],
        color=color,
        linestyle=dashes,
        linewidth=1.4,
        label=display(arm["optimizer"]),
    )


def _panel(
    axes: Axes, evidence: Evidence, factor: str, arms: Sequence[ArmRow], styles: Mapping[str, Any]
) -> None:
    """Draw one optimizer: a line for each series of levels, side by side so that none hides another."""
    if not arms:
        axes.set_xticks([])
        return
    levels = sorted_levels(arm[factor] for arm in arms)
    at = dict(zip(levels, _positions(axes, levels), strict=True))
    lines: dict[str, list[ArmRow]] = {}
    for arm in sorted(arms, key=lambda arm: at[arm[factor]]):
        lines.setdefault(series(arm, factor, evidence.factors), []).append(arm)
    for i, (name, members) in enumerate(sorted(lines.items())):
        shift = (i - (len(lines) - 1) / 2) * APART
        done = [arm for arm in members if arm["n"]]
        title = name or ("corrected" if "as-released" in styles else "")
        _line(axes, [at[arm[factor]] for arm in done], done, title, styles[name], shift)
        for arm in members:
            x, values = at[arm[factor]], evidence.by_seed[arm["arm"]].dropna()
            beside = _moved(axes, shift + 0.4 * APART)
            axes.plot(
                [x] * len(values), list(100 * values), ".", transform=beside, label="seeds", **SEEDS
            )
            _at_the_foot(axes, x, arm, styles[name][0], i)


def _line(
    axes: Axes, x: list[float], arms: Sequence[ArmRow], name: str, style: Any, shift: float
) -> None:
    """Draw means with their intervals at the levels that have a result."""
    color, dashes, marker = style
    mean = [100 * arm["mean"] for arm in arms]
    half = [0.0 if math.isnan(arm["ci_hi"]) else 100 * (arm["ci_hi"] - arm["mean"]) for arm in arms]
    label = f"{name}{': ' if name else ''}mean, 95% t-interval"
    look = {
        "color": color,
        "linestyle": dashes,
        "marker": marker,
        "markersize": 4.5,
        "linewidth": 1.4,
        "capsize": 3,
    }
    axes.errorbar(x, mean, half, transform=_moved(axes, shift), label=label, **look)


def _at_the_foot(axes: Axes, x: float, arm: ArmRow, color: str, row: int) -> None:
    """Mark trials without a result with a cross, k of n, and a mean below the axis with an arrow and its value."""
    marks, y = [], 0.06 + 0.1 * row
    if lost := _lost(arm):
        marks.append(("x", f"{lost}/{arm['planned']}", "diverged or failed, k of n"))
    if arm["n"] and 100 * arm["mean"] < axes.get_ylim()[0]:
        marks.append(("v", f"{100 * arm['mean']:.0f}", "mean below the axis"))
    for column, (marker, text, label) in enumerate(marks):
        foot = _moved(axes, column * 22 / 72, axes.get_xaxis_transform())
        look = {"color": color, "transform": foot, "clip_on": False}
        axes.plot([x], [y], marker, markersize=5, linestyle="", label=label, **look)
        axes.annotate(
            text, (x, y), (5, 0), foot, "offset points", color=color, fontsize=7.5, va="center"
        )


def _moved(axes: Any, inches: float, coordinates: Any = None) -> Any:
    """Return coordinates, those of the data by default, moved to the right."""
    return (coordinates or axes.transData) + ScaledTranslation(
        inches, 0, axes.figure.dpi_scale_trans
    )


def _positions(axes: Axes, levels: list[Any]) -> list[float]:
    """Return the levels' positions and add a tick at each: to scale if they are numbers, evenly otherwise."""
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
