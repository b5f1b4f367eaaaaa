"""The figure of Table 1: the time of each part over p and over r, beside its closed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from studies.harness.report.figures.style import REFERENCES, STYLE, SUBJECT, legend, save


def draw_scaling(scaling: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw `scaling.pdf`, `.png` and `.svg`.

    Args:
        scaling: The result of `trainables.cost.scaling.measure`.
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
                # The closed form passes through the largest size, because it does not know the machine's speed.
                scale = sweep["seconds"][-1] / sweep["operations"][-1]
                axes.loglog(sweep["sizes"], [scale * n for n in sweep["operations"]], ":", color=colors[name])
            sizes = next(iter(scaling[axis].values()))["sizes"]
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
            other = f"r = {scaling['rank']}" if axis == "p" else f"p = {scaling['width']}"
            axes.set_xlabel(f"{axis} ({other}); dotted: the closed form")
        row[0].set_ylabel("seconds")
        legend(figure, row[:1], 2)
        return save(figure, folder, "scaling")
