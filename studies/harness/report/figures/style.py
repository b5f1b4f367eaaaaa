"""What all figures share: colour-blind safe, readable in grayscale, equal bytes from equal folders; and two of them.

Only this file and those named after it import matplotlib.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_scaling(scaling: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the time of each part over p and over r as `scaling.pdf` and `scaling.png`, beside its closed form.

    Args:
        scaling: What `trainables.cost.scaling.measure` returns.
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


def display(optimizer: str) -> str:
    """An optimizer's name as papers spell it."""
    return NAMES.get(optimizer, optimizer.upper())


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as `<name>.pdf`, `.png` and `.svg`: equal figures, equal bytes."""
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
