"""Mean curves with their intervals, and lines that lie on one another."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from studies.harness.evidence.arms import mean_curves
from studies.harness.evidence.metrics import few, unit
from studies.harness.report.figures.style import BOX, Style, set_logarithmic

WIDTH = 1.3  # of a line, in points
CHARACTERS = 40  # of a line of text in a panel
DASH = 3  # length of the dashes of lines that lie on others, in line widths
BAND: Any = {"alpha": 0.13, "linewidth": 0}  # the look of an interval
FEW_BANDS = 6  # with more bands than this, their overlaps would hide the lines at the usual opacity
BEYOND = "interval beyond the axis"
# Smallest range of a linear axis, relative to the largest mean, and the range if all means are 0.
SMALLEST, RANGE_OF_ZEROS = 0.001, 0.1
# A linear axis ends at the worst mean after this fraction of the epochs.
SETTLED = 0.2


@dataclass(frozen=True)
class Curve:
    """The mean of an arm over the epochs.

    Attributes:
        name: The name in the legend.
        style: The colour and the kind of line.
        table: A table of `arms.mean_curves` in the unit of the axis; its index starts at 0.
        x: The horizontal position of each row.
    """

    name: str
    style: Style
    table: pd.DataFrame
    x: np.ndarray


def tables(by_epoch: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Return the `mean_curves` of a metric in the unit of its axis, by arm."""
    columns, scale = ["mean", "ci_lo", "ci_hi"], unit(metric).scale
    return {
        arm: table.assign(**{name: scale * table[name] for name in columns})
        for arm, table in mean_curves(by_epoch, metric).items()
    }


def draw_curves(axes: Axes, curves: Sequence[Curve], higher: bool) -> None:
    """Draw curves with their intervals, and write which of them coincide.

    Args:
        axes: The panel, with its final limits and scale.
        curves: The curves.
        higher: True if larger values are better, so that the curves leave the lower corner empty.
    """
    means: dict[str, Any] = {curve.name: curve.table["mean"] for curve in curves}
    twins = coincidences(axes, means)
    styles = visible({curve.name: curve.style for curve in curves}, twins)
    opacity = BAND["alpha"] * min(1, FEW_BANDS / max(1, len(curves)))
    for curve in curves:
        color, dashes = styles[curve.name]
        mean = curve.table["mean"]
        low, high = (curve.table[end].fillna(mean) for end in ("ci_lo", "ci_hi"))
        axes.fill_between(curve.x, low, high, color=color, **{**BAND, "alpha": opacity})
        look = {"color": color, "linestyle": dashes, "linewidth": WIDTH}
        draw_line(axes, curve.x, mean, label=curve.name, **look)
        for i in _without_neighbours(mean):  # the band of a single point has no area
            ends = float(low.iloc[i]), float(high.iloc[i])
            axes.vlines(curve.x[i], *ends, color, alpha=0.5, linewidth=WIDTH)
        last = float(low.iloc[-1]), float(high.iloc[-1])
        mark_ends(axes, curve.x[-1], last, color, transform=axes.get_xaxis_transform())
    y, side = (0.03, "bottom") if higher else (0.97, "top")
    font: Any = {"ha": "right", "va": side, "fontsize": 7.5, "color": "0.25", "bbox": BOX}
    text = axes.text(0.98, y, coincide(twins), transform=axes.transAxes, **font)
    text.set_in_layout(False)  # a long text must not change the size of the panels


def draw_line(axes: Axes, x: Any, y: Any, **look: Any) -> None:
    """Draw a line with a marker at each point without a neighbour, which would be invisible."""
    if alone := _without_neighbours(y):
        look |= {"marker": "o", "markersize": 3.5, "markevery": alone}
    axes.plot(x, y, **look)


def _without_neighbours(y: Any) -> list[int]:
    """Return the indices of the finite values next to which there is no other finite value."""
    known = np.pad(np.isfinite(np.asarray(y, float)), 1)
    return [int(i) for i in np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])]


def mark_ends(
    axes: Axes, x: float, interval: Sequence[float], color: str, *, transform: Any
) -> None:
    """Mark each end of an interval that is beyond the vertical axis by an open arrow at its edge.

    Args:
        axes: The panel, with its final limits.
        x: The horizontal position of the arrow.
        interval: The two ends, in the unit of the axis; nan if there is no interval.
        color: The colour.
        transform: Coordinates whose vertical axis is that of the panel (0 to 1).
    """
    (bottom, top), (low, high) = sorted(axes.get_ylim()), interval
    for beyond, y, marker in ((low < bottom, 0.0, "v"), (high > top, 1.0, "^")):
        if beyond:
            look: Any = {"color": color, "markersize": 4.5, "markerfacecolor": "white"}
            look |= {"linestyle": "", "clip_on": False, "zorder": 3, "label": BEYOND}
            axes.plot([x], [y], marker, transform=transform, **look)


def coincidences(axes: Axes, lines: Mapping[str, pd.Series]) -> dict[str, str]:
    """Return the lines that lie on an earlier line, each with the name of the earlier line.

    Two lines lie on one another if their vertical distance is below the line width at half or more
    of their common positions. Then their order cannot be seen.

    Args:
        axes: The panel, with its final limits and scale.
        lines: The heights of each line by its name, indexed by position.
    """
    to_points = axes.bbox.height * 72 / axes.figure.dpi
    heights = {name: to_points * _fractions(axes, line) for name, line in lines.items()}
    twins: dict[str, str] = {}
    for name, line in heights.items():
        for other in heights:
            if other == name:
                break
            distances = (line - heights[other]).abs().dropna()
            if other not in twins and not distances.empty and distances.median() < WIDTH:
                twins[name] = other
                break
    return twins


def _fractions(axes: Axes, line: pd.Series) -> pd.Series:
    """Return heights as fractions of the height of a panel."""
    values = line.to_numpy(float)
    points: Any = axes.transScale.transform(np.column_stack([np.ones_like(values), values]))
    low, high = axes.transScale.transform([(1, limit) for limit in axes.get_ylim()])[:, 1]
    return pd.Series((points[:, 1] - low) / (high - low), index=line.index)


def visible(styles: Mapping[str, Style], twins: Mapping[str, str]) -> dict[str, Style]:
    """Return the styles with dashes for solid lines that lie on others, so that all can be seen."""
    changed = dict(styles)
    for first in dict.fromkeys(twins.values()):
        above = [name for name, other in twins.items() if other == first]
        for place, name in enumerate(above, start=1):
            color, dashes = styles[name]
            if dashes == "-":
                changed[name] = (color, (DASH * place, (DASH, DASH * len(above))))
    return changed


def coincide(twins: Mapping[str, str]) -> str:
    """Return a sentence for each group of lines that lie on one another, in short lines."""
    sentences = []
    for first in dict.fromkeys(twins.values()):
        names = [name for name, other in twins.items() if other == first]
        verb = "coincides" if len(names) == 1 else "coincide"
        sentences.append(f"{few(names)} {verb} with {first} for most epochs")
    return "\n".join(textwrap.fill(sentence, CHARACTERS) for sentence in sentences)


def over_seeds(sizes: Iterable[float]) -> str:
    """Return the title of a legend, with the smallest and the largest number of seeds."""
    ordered = sorted(sizes)
    low, high = ordered[0], ordered[-1]
    if high < 2:
        return "results of one seed"
    number = f"{high:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
    return f"means and 95% intervals over {number} seeds"


def set_scale(axes: Axes, tables: Sequence[pd.DataFrame], higher: bool) -> None:
    """Set the range of the vertical axis from the means of all panels that share it.

    The axis is logarithmic if smaller values are better, and the means are positive and span a
    decade. A linear axis contains the best mean, and the means after the first epochs. If these are
    almost equal, the axis extends to worse values, and not from positive to negative values.
    """
    if not tables:
        return
    means: Any = pd.concat([table["mean"] for table in tables])
    means = means[np.isfinite(means)]
    if means.empty or (not higher and set_logarithmic(axes, means)):
        return
    settled = means[means.index >= math.floor(SETTLED * means.index.max())]
    settled = means if settled.empty else settled
    low, high = (settled.min(), means.max()) if higher else (means.min(), settled.max())
    smallest = SMALLEST * max(abs(low), abs(high)) or RANGE_OF_ZEROS
    if higher and high - low < smallest:
        low = high - smallest if low < 0 or high >= smallest else 0.0
    high = max(high, low + smallest)
    below, above = (0.05, 0.15) if higher else (0.15, 0.05)
    axes.set_ylim(low - below * (high - low), high + above * (high - low))
