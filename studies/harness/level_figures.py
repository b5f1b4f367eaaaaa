"""The figure of an ablation: a metric over a factor's levels, a panel for each optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from studies.harness.figures import REFERENCES, STYLE, SUBJECT, display, save
from studies.harness.ledger import DIVERGED, FAILED, OOM, factors, series
from studies.harness.levels import sorted_levels
from studies.harness.statistics import completed, group
from studies.harness.study import LevelFigure, Study

ArmRow = dict[Any, Any]  # a row of `statistics.group`
# Lines of one panel: told apart by marker and dashes in grayscale.
SERIES = ((SUBJECT, "-", "o"), ("#56B4E9", "--", "s"), ("black", ":", "^"), ("0.5", "-.", "D"))
SEEDS = {"color": "0.4", "markersize": 4, "markeredgewidth": 0, "alpha": 0.9}
APART = 7 / 72  # inches between the lines of a panel
LOG_FROM = 8  # levels that span so much are on a logarithmic axis


def draw(study: Study, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the study's figure, if it is one of levels, as `<factor>.pdf`, `.png` and `.svg`.

    Args:
        study: Its `figure` says what is drawn.
        frame: `ledger.frame(..., per="trial")`. Panels without a completed or failed trial are left out, and so are
            references without a completed one. Levels with trials that diverged or failed are marked as such.
        folder: Where to write.

    Returns:
        The files; empty when no trial has completed.
    """
    spec = study.figure
    if not isinstance(spec, LevelFigure):
        return []
    arms = [arm for arm in group(frame, spec.metric).to_dict("records") if arm["n"] or lost(arm)]
    if not any(arm["n"] for arm in arms):
        return []
    varied = [arm for arm in arms if _level(arm, spec.factor) is not None]
    bands = [_reference(name, arms, spec.factor) for name in spec.references]
    panels = [name for name in spec.panels if any(arm["optimizer"] == name for arm in varied)]
    with matplotlib.rc_context(STYLE):
        figure = _figure(spec, panels or [""], [arm for arm in bands if arm], varied, frame)
        return save(figure, folder, spec.factor)


def lost(arm: ArmRow) -> int:
    """How many of an arm's trials ended without a result."""
    return sum(arm[status] for status in (DIVERGED, OOM, FAILED))


def _reference(optimizer: str, arms: Sequence[ArmRow], factor: str) -> ArmRow | None:
    """The first completed arm of an optimizer that has no level."""
    same = (arm for arm in arms if arm["optimizer"] == optimizer and arm["n"])
    return next((arm for arm in same if _level(arm, factor) is None), None)


def _level(arm: ArmRow, factor: str) -> Any:
    """Its level of a factor, or None."""
    level: Any = arm.get(factor)
    return None if pd.isna(level) else level


def _figure(
    spec: LevelFigure, panels: list[str], bands: Sequence[ArmRow], arms: Sequence[ArmRow], frame: pd.DataFrame
) -> Figure:
    columns = len(panels) if len(panels) <= 3 else 2
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(3.6, 3.3 * columns), 2.4 * rows + 0.5), layout="constrained")
    cells = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(cells, panels, strict=False):
        for arm, (color, dashes) in zip(bands, REFERENCES, strict=False):
            _band(axes, arm, color, dashes)
        _panel(axes, spec, [arm for arm in arms if arm["optimizer"] == panel], frame)
        axes.set_title(display(panel))
        axes.set_xlabel(spec.factor.replace("_", " "))
    for axes in cells[::columns]:
        axes.set_ylabel(f"{spec.metric.replace('/', ' ')} (%)")
    found = [axes.get_legend_handles_labels() for axes in cells[: len(panels)]]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(len(entries), 2 * columns))
    return figure


def _band(axes: Axes, arm: ArmRow, color: str, dashes: Any) -> None:
    """A reference: its mean as a line over the whole width, its interval as a shade."""
    if not math.isnan(arm["ci_lo"]):
        axes.axhspan(100 * arm["ci_lo"], 100 * arm["ci_hi"], color=color, alpha=0.13, linewidth=0, zorder=0.5)
    axes.axhline(100 * arm["mean"], color=color, linestyle=dashes, linewidth=1.4, label=display(arm["optimizer"]))


def _panel(axes: Axes, spec: LevelFigure, arms: Sequence[ArmRow], frame: pd.DataFrame) -> None:
    """One optimizer: a line for each series of levels, side by side so that none hides another."""
    if not arms:
        axes.set_xticks([])
        return
    levels = sorted_levels(arm[spec.factor] for arm in arms)
    at = dict(zip(levels, _positions(axes, levels), strict=True))
    lines: dict[str, list[ArmRow]] = {}
    for arm in sorted(arms, key=lambda arm: at[arm[spec.factor]]):
        lines.setdefault(series(arm, spec.factor, factors(frame)), []).append(arm)
    for i, (name, members) in enumerate(sorted(lines.items())):
        style, shift = SERIES[i % len(SERIES)], (i - (len(lines) - 1) / 2) * APART
        done = [arm for arm in members if arm["n"]]
        _line(axes, [at[arm[spec.factor]] for arm in done], done, name, style, shift)
        for arm in members:
            x, values = at[arm[spec.factor]], completed(frame.loc[frame["arm"] == arm["arm"]], spec.metric)
            beside = _moved(axes, shift + 0.4 * APART)
            axes.plot([x] * len(values), list(100 * values), ".", transform=beside, label="seeds", **SEEDS)
            if lost(arm):
                _failures(axes, x, arm, style[0], i)


def _line(axes: Axes, x: list[float], arms: Sequence[ArmRow], name: str, style: Any, shift: float) -> None:
    """Means with their intervals at the levels that have a result."""
    color, dashes, marker = style
    mean = [100 * arm["mean"] for arm in arms]
    half = [0.0 if math.isnan(arm["ci_hi"]) else 100 * (arm["ci_hi"] - arm["mean"]) for arm in arms]
    label = f"{name}: mean, 95% t-interval" if name else "mean, 95% t-interval"
    look = {"color": color, "linestyle": dashes, "marker": marker, "markersize": 4.5, "linewidth": 1.4, "capsize": 3}
    axes.errorbar(x, mean, half, transform=_moved(axes, shift), label=label, **look)


def _failures(axes: Axes, x: float, arm: ArmRow, color: str, row: int) -> None:
    """A cross at the foot of the panel for trials without a result, k of n."""
    foot = axes.get_xaxis_transform()
    label = "diverged or failed, k of n"
    axes.plot([x], [0.05 + 0.09 * row], "x", color=color, markersize=5, transform=foot, clip_on=False, label=label)
    text = f" {lost(arm)}/{arm['planned']}"
    axes.text(x, 0.05 + 0.09 * row, text, color=color, fontsize=7.5, va="center", transform=foot)


def _moved(axes: Axes, inches: float) -> Any:
    """The data's coordinates, moved to the right."""
    assert axes.figure is not None
    return axes.transData + ScaledTranslation(inches, 0, axes.figure.dpi_scale_trans)


def _positions(axes: Axes, levels: list[Any]) -> list[float]:
    """Where the levels stand, with a tick at each: to scale when they are numbers, evenly otherwise."""
    numbers = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    x = [float(level) for level in levels] if numbers else [float(i) for i in range(len(levels))]
    if numbers and min(x) > 0 and max(x) / min(x) >= LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12)
    axes.set_xticks(x, [f"{level:g}" if numbers else str(level) for level in levels])
    return x
