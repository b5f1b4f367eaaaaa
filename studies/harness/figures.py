"""Figures for print: colour-blind-safe, readable in grayscale, equal bytes from equal folders.

This file and `target_figures` alone import matplotlib.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from studies.harness.statistics import completed, group
from studies.harness.study import LevelFigure, Study

ArmRow = dict[Any, Any]  # a row of `statistics.group`
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "0.3",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "xtick.color": "0.3",
    "ytick.color": "0.3",
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "pdf.fonttype": 42,  # TrueType: text stays text
    "svg.hashsalt": "precond",  # otherwise the names inside are random
}
# Okabe and Ito; the first is the study's subject, the others its references, told apart by line style in grayscale.
SUBJECT = "#0072B2"
REFERENCES = (("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#E69F00", (0, (5, 1, 1, 1, 1, 1))))
SEEDS = {"color": "0.4", "markersize": 5, "markeredgewidth": 0, "alpha": 0.9}
# What the figure of the diagnostics shows, and whether on a logarithmic axis.
DIAGNOSTICS = {
    "diag/stable_rank_median": ("stable rank, median", False),
    "diag/top_over_damping_max": ("top eigenvalue / damping, max", True),
    "diag/residual_max": ("residual of the low-rank factor, max", False),
    "diag/staleness_max": ("staleness, max", False),
    "diag/cosine_median": ("cosine to the gradient, median", False),
    "diag/update_over_weight_median": ("update / weight, median", True),
}
NAMES = {
    "nysact-s": "NysAct-S",
    "nysact-g": "NysAct-G",
    "adam": "Adam",
    "adamw": "AdamW",
    "eva": "Eva",
    "sketchysgd": "SketchySGD",
    "shampoo": "Shampoo",
    "adahessian": "AdaHessian",
}


def draw(study: Study, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the study's figure as `<factor>.pdf`, `.png` and `.svg`.

    Args:
        study: Its `figure` says what is drawn.
        frame: `ledger.frame(..., per="trial")`; panels, levels and references without a completed trial are left out.
        folder: Where to write.

    Returns:
        The files; empty when no trial has completed.
    """
    spec = study.figure
    if not isinstance(spec, LevelFigure):
        return []  # has a file of its own
    arms = [arm for arm in group(frame, spec.metric).to_dict("records") if arm["n"]]
    shown = {arm["optimizer"] for arm in arms}
    panels = [name for name in spec.panels if name in shown]
    references = [name for name in spec.references if name in shown]
    if not panels and not references:
        return []
    with matplotlib.rc_context(STYLE):
        figure = _figure(spec, panels or [""], references, arms, frame)
        return save(figure, folder, spec.factor)


def draw_diagnostics(frame: Any, folder: Path) -> list[Path]:
    """Draw `diagnostics.pdf` and `.png`: measures over layers by epoch, each arm's mean over its seeds.

    Args:
        frame: `ledger.frame(..., per="epoch")`. Trials that ran without diagnostics, or have none, are left out and
            counted.
        folder: Where to write.

    Returns:
        The files; empty when no trial has diagnostics.
    """
    names = [name for name in DIAGNOSTICS if name in frame and frame[name].notna().any()]
    if not names:
        return []
    shown = frame.dropna(subset=names, how="all")
    counts = [table["trial_key"].nunique() for table in (shown, frame)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.6 * math.ceil(len(names) / 3) + 0.5), layout="constrained")
        grid = figure.subplots(math.ceil(len(names) / 3), 3, sharex=True, squeeze=False).flat
        for axes in grid[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(grid, names, strict=False):
            _curves(axes, shown, name)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.suptitle(f"{counts[0]} of {counts[1]} trials have diagnostics", fontsize=9)
        return save(figure, folder, "diagnostics")


def _curves(axes: Axes, frame: Any, name: str) -> None:
    """One measure: a line for each arm."""
    title, logarithmic = DIAGNOSTICS[name]
    styles = itertools.cycle([(SUBJECT, "-"), *REFERENCES])
    for arm, (color, dashes) in zip(dict.fromkeys(frame["arm"]), styles, strict=False):
        means = frame[frame["arm"] == arm].groupby("epoch")[name].mean()
        axes.plot(list(means.index), list(means), color=color, linestyle=dashes, linewidth=1.2, label=arm)
    axes.set_title(title)
    if logarithmic:
        axes.set_yscale("log")
    axes.set_xlabel("epoch")


def draw_scaling(scaling: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the time of each part over p and over r as `scaling.pdf` and `scaling.png`, beside its closed form.

    Args:
        scaling: What `trainables.scaling.measure` returns.
        folder: Where to write.
    """
    colors = dict(zip(scaling["p"], (SUBJECT, *(color for color, _ in REFERENCES), "black"), strict=False))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.9, 3.4), layout="constrained")
        row = figure.subplots(1, 2, sharey=True)
        for axes, axis in zip(row, ("p", "r"), strict=True):
            for name, sweep in scaling[axis].items():
                slope = f"{name} (p^{sweep['exponent']:.2f})" if axis == "p" else name
                axes.loglog(sweep["sizes"], sweep["seconds"], "o-", color=colors[name], markersize=3, label=slope)
                # The closed form through the largest size: the rate of the machine is not its business.
                scale = sweep["seconds"][-1] / sweep["operations"][-1]
                axes.loglog(sweep["sizes"], [scale * n for n in sweep["operations"]], ":", color=colors[name])
            sizes = next(iter(scaling[axis].values()))["sizes"]
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
            other = f"r = {scaling['rank']}" if axis == "p" else f"p = {scaling['width']}"
            axes.set_xlabel(f"{axis} ({other}); dotted: the closed form")
        row[0].set_ylabel("seconds")
        handles, labels = row[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return save(figure, folder, "scaling")


def _figure(
    spec: LevelFigure, panels: list[str], references: list[str], arms: list[ArmRow], frame: pd.DataFrame
) -> Figure:
    figure = Figure(figsize=(max(3.6, 3.3 * len(panels)), 2.9), layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(row, panels, strict=True):
        for name, (color, dashes) in zip(references, REFERENCES, strict=False):
            _band(axes, next(arm for arm in arms if arm["optimizer"] == name), color, dashes)
        _levels(axes, spec, [arm for arm in arms if arm["optimizer"] == panel], frame)
        axes.set_title(display(panel))
        axes.set_xlabel(spec.factor.replace("_", " "))
    row[0].set_ylabel(f"{spec.metric.replace('/', ' ')} (%)")
    entries = {label: handle for axes in row for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries))
    return figure


def _band(axes: Axes, arm: ArmRow, color: str, dashes: Any) -> None:
    """A reference: its mean as a line over the whole width, its interval as a shade."""
    if not math.isnan(arm["ci_lo"]):
        axes.axhspan(100 * arm["ci_lo"], 100 * arm["ci_hi"], color=color, alpha=0.13, linewidth=0, zorder=0.5)
    axes.axhline(100 * arm["mean"], color=color, linestyle=dashes, linewidth=1.4, label=display(arm["optimizer"]))


def _levels(axes: Axes, spec: LevelFigure, arms: list[ArmRow], frame: pd.DataFrame) -> None:
    """The panel's arms: mean with interval at each level, and each seed as a small point."""
    if not arms:
        axes.set_xticks([])
        return
    arms = sorted(arms, key=lambda arm: arm[spec.factor])
    x = _positions(axes, [arm[spec.factor] for arm in arms])
    mean = [100 * arm["mean"] for arm in arms]
    half = [0.0 if math.isnan(arm["ci_hi"]) else 100 * (arm["ci_hi"] - arm["mean"]) for arm in arms]
    label = "mean, 95% t-interval"
    axes.errorbar(x, mean, half, fmt="o-", color=SUBJECT, markersize=4.5, linewidth=1.4, capsize=3, label=label)
    # Beside the bar, not under it.
    aside = axes.transData + ScaledTranslation(5 / 72, 0, axes.figure.dpi_scale_trans)
    values = completed(frame, spec.metric)
    for position, arm in zip(x, arms, strict=True):
        seeds = [100 * value for index, value in values.items() if frame["arm"][index] == arm["arm"]]
        axes.plot([position] * len(seeds), seeds, ".", transform=aside, label="seeds", **SEEDS)


def _positions(axes: Axes, levels: list[Any]) -> list[float]:
    """Where the levels stand, with a tick at each: to scale when they are numbers, evenly otherwise."""
    numbers = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    x = [float(level) for level in levels] if numbers else [float(i) for i in range(len(levels))]
    if numbers and min(x) > 0 and max(x) / min(x) >= 20:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12)
    axes.set_xticks(x, [str(level) for level in levels])
    return x


def display(optimizer: str) -> str:
    """An optimizer's name as papers print it."""
    return NAMES.get(optimizer, optimizer.upper())


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.pdf`, `.png` and `.svg`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without these entries the files would hold dates and matplotlib's version.
    blank: dict[str, dict[str, None]] = {
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
    }
    paths = [folder / f"{name}{suffix}" for suffix in blank]
    for path in paths:
        figure.savefig(path, dpi=200, metadata=blank[path.suffix])
    return paths
