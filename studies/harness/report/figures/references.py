"""The references of the figure of an ablation: lines with bands behind the levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from studies.harness.evidence.metrics import unit
from studies.harness.report.figures.limits import ArmRow
from studies.harness.report.figures.means import BAND, coincidences, mark_ends, visible
from studies.harness.report.figures.style import BOX, Style, display, lines

ROW = 0.09  # the height of a mark, as a fraction of the panel
LONGEST = 30  # characters of a name in a mark
LIGHT: Any = {**BAND, "alpha": 0.07}  # a band may cover the whole panel


def draw(axes: Axes, arms: Sequence[ArmRow], metric: str, height: float) -> dict[str, Any]:
    """Draw the mean of each reference as a line and its interval as a band.

    Args:
        axes: The panel, with its final limits.
        arms: The references.
        metric: The metric.
        height: The fraction of the panel that other marks at its edge need.

    Returns:
        The entries of the legend. They name the references that coincide.
    """
    scale, names = unit(metric).scale, [arm["optimizer"] for arm in arms]
    heights = {arm["optimizer"]: pd.Series([scale * arm["mean"]]) for arm in arms}
    twins = coincidences(axes, heights)
    styles = visible(dict(zip(names, lines(names), strict=True)), twins)
    handles: dict[str, Any] = {}
    for row, arm in enumerate(arms):
        name = arm["optimizer"]
        line = _reference(axes, arm, metric, styles[name], row)
        twin = f" (coincides with {display(twins[name])})" if name in twins else ""
        label = f"{display(name)}{twin}"
        handles[label] = (Patch(color=styles[name][0], **BAND), line)
    beyond = [arm for arm in arms if not is_visible(axes, arm, metric)]
    distance = min(ROW, (0.9 - height) / max(1, len(beyond)))
    for row, arm in enumerate(beyond):
        _mark(axes, arm, metric, styles[arm["optimizer"]][0], height + distance * row)
    return handles


def _reference(axes: Axes, arm: ArmRow, metric: str, style: Style, row: int) -> Line2D:
    scale, (color, dashes) = unit(metric).scale, style
    look: Any = {"color": color, "linestyle": dashes}
    if not math.isnan(arm["ci_lo"]):
        ends = [scale * arm["ci_lo"], scale * arm["ci_hi"]]
        axes.axhspan(*ends, color=color, zorder=0.5, **LIGHT)
        for end in ends:  # the ends can be seen where bands overlap, also in grayscale
            axes.axhline(end, linewidth=0.6, alpha=0.6, zorder=0.6, **look)
        if is_visible(axes, arm, metric):
            mark_ends(axes, 0.02 + 0.03 * row, ends, color, transform=axes.transAxes)
    return axes.axhline(scale * arm["mean"], linewidth=1.4, **look)


def _mark(axes: Axes, arm: ArmRow, metric: str, color: str, height: float) -> None:
    """Mark a reference beyond the axis by an arrow with its name and its mean."""
    above = unit(metric).scale * arm["mean"] > axes.get_ylim()[1]
    y = 0.95 - height if above else 0.05 + height
    look = {"color": color, "transform": axes.transAxes, "clip_on": False}
    axes.plot([0.98], [y], "^" if above else "v", markersize=5, linestyle="", **look)
    name = display(arm["optimizer"])
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
    text = f"{name} {short(arm['mean'], metric)}"
    font = {"color": color, "fontsize": 7.5, "va": "center", "ha": "right", "bbox": BOX}
    axes.annotate(text, (0.98, y), (-6, 0), axes.transAxes, "offset points", **font)


def is_visible(axes: Axes, arm: ArmRow, metric: str) -> bool:
    """Return True if the mean of an arm is within the limits of the vertical axis."""
    low, high = axes.get_ylim()
    return low <= unit(metric).scale * arm["mean"] <= high


def short(mean: float, metric: str) -> str:
    """Return a mean with two digits."""
    return f"{mean:.0%}" if unit(metric).percent else f"{mean:.2g}"
