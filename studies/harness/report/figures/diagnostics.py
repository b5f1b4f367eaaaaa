"""The figure of the diagnostics: measures over layers by epoch, each arm's mean over its seeds."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies.harness.evidence.arms import mean_curves
from studies.harness.report.figures.style import REFERENCES, STYLE, SUBJECT, legend, save

# The panels, and True for a logarithmic axis.
DIAGNOSTICS = {
    "diag/stable_rank_median": ("stable rank, median", False),
    "diag/top_over_damping_max": ("top eigenvalue / damping, max", True),
    "diag/residual_max": ("residual of the low-rank factor, max", False),
    "diag/staleness_max": ("staleness, max", False),
    "diag/cosine_median": ("cosine to the gradient, median", False),
    "diag/update_over_weight_median": ("update / weight, median", True),
}


def draw_diagnostics(frame: Any, folder: Path) -> list[Path]:
    """Draw `diagnostics.pdf`, `.png` and `.svg`.

    Args:
        frame: `ledger.frame(..., per="epoch")`. Trials without diagnostics are left out and counted.
        folder: Where to write.

    Returns:
        The files; empty if no trial has diagnostics.
    """
    names = [name for name in DIAGNOSTICS if name in frame and frame[name].notna().any()]
    if not names:
        return []
    shown = frame.dropna(subset=names, how="all")
    counts = [table["trial_key"].nunique() for table in (shown, frame)]
    rows = math.ceil(len(names) / 3)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.6 * rows + 0.5), layout="constrained")
        grid = list(figure.subplots(rows, 3, sharex=True, squeeze=False).flat)
        for axes in grid[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(grid, names, strict=False):
            title, logarithmic = DIAGNOSTICS[name]
            styles = itertools.cycle([(SUBJECT, "-"), *REFERENCES])
            for (arm, table), (color, dashes) in zip(mean_curves(shown, name).items(), styles, strict=False):
                mean = table["mean"]
                axes.plot(list(mean.index), list(mean), color=color, linestyle=dashes, linewidth=1.2, label=arm)
            axes.set_title(title)
            if logarithmic:
                axes.set_yscale("log")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, grid[:1], 4)
        figure.suptitle(f"{counts[0]} of {counts[1]} trials have diagnostics", fontsize=9)
        return save(figure, folder, "diagnostics")
