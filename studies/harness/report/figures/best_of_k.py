"""The figure of a search: the best score of k configurations over k, each optimizer's mean with a band."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies.harness.report.figures.style import STYLE, display, legend, lines, save


def draw(curves: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Draw `best_of_k.pdf`, `.png` and `.svg`; nothing without curves.

    Args:
        curves: `statistics.budgets.best_of_k` of validation accuracies, by optimizer.
        folder: Where to write.
    """
    if not curves:
        return []
    styles = lines(curves)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.4), layout="constrained")
        axes = figure.subplots()
        for name, curve in curves.items():
            color, dashes = styles[name]
            known = curve.dropna(subset=["mean"])
            axes.plot(
                known["k"], 100 * known["mean"], color=color, linestyle=dashes, linewidth=1.2, label=display(name)
            )
            low, high = 100 * known["lo"], 100 * known["hi"]
            axes.fill_between(known["k"], low, high, color=color, alpha=0.10, linewidth=0)
        _scale(axes, curves)
        axes.set_xlabel("k configurations")
        axes.set_ylabel("best validation accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, [axes], 4)
        return save(figure, folder, "best_of_k")


def _scale(axes: Axes, curves: Mapping[str, pd.DataFrame]) -> None:
    """Set the range by the means from k = 2: one random draw may be far below, and all would be one line."""
    means = np.concatenate([100 * curve["mean"].to_numpy()[min(1, len(curve) - 1) :] for curve in curves.values()])
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    span = max(high - low, 0.5)
    axes.set_ylim(low - 0.1 * span, high + 0.1 * span)
