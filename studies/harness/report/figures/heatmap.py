"""The heat map of two factors: the mean at each pair of levels, with the trials that were lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.interaction import Cells
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.evidence.status import LOST
from studies.harness.report.figures.style import (
    DECADE,
    MAP,
    STYLE,
    display,
    panels,
    save,
    write_decision,
)

CELL = (0.9, 0.5)  # the size of a pair of levels, in inches
BESIDE, AROUND = 1.6, 1.3  # room for the labels, the titles and the scale, in inches
NOT_PLANNED = "0.92"  # the colour of a pair of levels without an arm or without a result


@matplotlib.rc_context({**STYLE, "axes.grid": False})
def draw(evidence: Evidence, parts: Sequence[Cells], folder: Path) -> list[Path]:
    """Draw `<first>_by_<second>.pdf`, `.png` and `.svg`; nothing if no trial has completed.

    There is a panel for each optimizer and setting. All panels share one colour scale, on which
    better values are brighter. It is logarithmic if smaller values are better and the means span a
    decade. If all means are equal, it has one tick, because a range around the value may contain
    impossible values, such as an accuracy of 200%.
    """
    arms = [arm for part in parts for arm in part.arms.values() if arm["n"]]
    means = [unit(evidence.metric).scale * arm["mean"] for arm in arms]
    if not means:
        return []
    norm = _scale(means, higher_is_better(evidence.metric))
    colors = MAP if higher_is_better(evidence.metric) else f"{MAP}_r"
    columns = min(2, len(parts))
    rows = math.ceil(len(parts) / columns)
    widest, highest = (max(len(part.levels[side]) for part in parts) for side in (1, 0))
    size = (
        max(4.2, columns * CELL[0] * widest + BESIDE),
        rows * (CELL[1] * highest + AROUND),
    )
    figure, grid = panels(size, rows, columns)
    for axes in grid.flat[len(parts) :]:
        axes.set_axis_off()
    image: Any = None
    for axes, part in zip(grid.flat, parts, strict=False):
        image = _panel(axes, evidence, part, norm, colors)
    bar = figure.colorbar(image, ax=grid, shrink=0.9, pad=0.02)
    if _are_equal(means):
        bar.set_ticks([means[0]], labels=[unit(evidence.metric).show(arms[0]["mean"])])
    bar.set_label(f"mean {unit(evidence.metric).axis}")
    write_decision(figure, evidence.claims)
    first, second = parts[0].factors
    return save(figure, folder, f"{first}_by_{second}")


def _scale(means: Sequence[float], higher: bool) -> Normalize:
    low, high = min(means), max(means)
    if _are_equal(means):
        margin = abs(low) or 1.0  # the single value has the colour in the middle of the scale
        return Normalize(low - margin, low + margin)
    if not higher and low > 0 and high >= DECADE * low:
        return LogNorm(low, high)
    return Normalize(low, high)


def _are_equal(means: Sequence[float]) -> bool:
    """Return True if the means are equal except for rounding errors."""
    return math.isclose(min(means), max(means), rel_tol=1e-9, abs_tol=1e-12)


def _panel(axes: Axes, evidence: Evidence, part: Cells, norm: Normalize, colors: str) -> Any:
    """Draw the cells of an optimizer; return the image, for the colour scale."""
    show, palette = (
        unit(evidence.metric),
        matplotlib.colormaps[colors].with_extremes(bad=NOT_PLANNED),
    )
    shape = part.labels.shape
    means = np.full(shape, np.nan)
    for place, arm in part.arms.items():
        means[place] = show.scale * arm["mean"] if arm["n"] else np.nan
    image = axes.imshow(means, cmap=palette, norm=norm, aspect="auto", origin="lower")
    for (row, column), arm in part.arms.items():
        color = _text_color(palette(norm(means[row, column]))) if arm["n"] else "black"
        font: Any = {"color": color, "ha": "center", "va": "center", "fontsize": 7.5}
        axes.text(column, row, _words(arm, show), **font)
    for axis, levels in ((axes.set_yticks, part.levels[0]), (axes.set_xticks, part.levels[1])):
        axis(range(len(levels)), [str(level) for level in levels])
    first, second = part.factors
    axes.set_ylabel(first.replace("_", " "))
    axes.set_xlabel(second.replace("_", " "))
    axes.set_title(", ".join(filter(None, [display(part.optimizer), part.setting])))
    return image


def _words(arm: Any, show: Any) -> str:
    """Return the mean, and n or the trials that ended without a result."""
    lost = {status: arm[status] for status in LOST if arm[status]}
    note = f"n = {arm['n']}"
    if lost:
        status = next(iter(lost)) if len(lost) == 1 else "lost"
        note = f"\N{MULTIPLICATION SIGN} {sum(lost.values())} of {arm['planned']}\n{status}"
    return f"{show.show(arm['mean'])}\n{note}" if arm["n"] else note


def _text_color(color: Sequence[float]) -> str:
    """Return the colour of text on a background (red, green, blue, opacity)."""
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return "black" if brightness > 0.5 else "white"
