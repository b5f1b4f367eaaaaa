"""Figures on the theory of NysAct: loss over residual (Remark 5.6), times over sizes (Table 1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from studies.harness.evidence.metrics import number, words
from studies.harness.report.figures.layout import legend
from studies.harness.report.figures.style import (
    LINES,
    STYLE,
    display,
    entries,
    lines,
    panels,
    save,
)

MARKERS = {"nysact-g": "o", "nysact-s": "^"}


@matplotlib.rc_context(STYLE)
def draw_residuals(
    table: Any, orders: Mapping[str, Mapping[str, float]], title: str, folder: Path
) -> list[Path]:
    """Draw `residual.pdf`, `.png` and `.svg`: the final loss of each trial over its residual.

    Each trial is a point, larger for a larger rank. The trials of a seed are connected by a line.

    Args:
        table: A table with the columns `optimizer rank seed residual` and the metrics.
        orders: The rank correlations to print, by metric (one panel each) and optimizer.
        title: Title of the figure.
        folder: The folder to write to.
    """
    ranks = sorted(table["rank"].unique())
    sizes = {rank: 3 + 4 * place / max(1, len(ranks) - 1) for place, rank in enumerate(ranks)}
    figure, (row,) = panels((3.6 * len(orders), 3.3), 1, len(orders))
    for axes, (metric, order) in zip(row, orders.items(), strict=True):
        for optimizer, (color, _) in zip(order, lines(order), strict=True):
            rows = table[table["optimizer"] == optimizer].sort_values("rank")
            look = {"color": color, "markeredgewidth": 0}
            for _, trials in rows.groupby("seed"):
                x, y = trials["residual"], trials[metric]
                axes.plot(x, y, color=color, linewidth=0.6, alpha=0.5)
                for rank, *point in zip(trials["rank"], x, y, strict=True):
                    axes.plot(*point, _marker(optimizer), markersize=sizes[rank], **look)
        correlations = [f"{display(name)} {number(rho, '+.2f')}" for name, rho in order.items()]
        axes.set_title(", ".join(correlations), fontsize=8.5)
        axes.set_xlabel("mean Nystrom residual |A - A^| / |A|")
        axes.set_ylabel(f"final {words(metric)}")
    names = [*next(iter(orders.values()))]
    styles = zip(names, lines(names), strict=True)
    points = [(display(name), _marker(name), color, 5) for name, (color, _) in styles]
    points += [(f"rank {rank}", "o", "0.5", size) for rank, size in sizes.items()]
    look: Any = {"linestyle": "", "markeredgewidth": 0}
    handles = {
        label: Line2D([], [], marker=marker, color=color, markersize=size, **look)
        for label, marker, color, size in points
    }
    legend(figure, handles, len(handles))
    figure.suptitle(title, fontsize=9)
    return save(figure, folder, "residual")


def _marker(optimizer: str) -> str:
    return MARKERS.get(optimizer, "s")


@matplotlib.rc_context(STYLE)
def draw_scaling(scaling: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw `scaling.pdf`, `.png` and `.svg` from the result of `trainables.cost.scaling.measure`."""
    colors = dict(zip(scaling["p"], (*(color for color, _ in LINES), "black"), strict=False))
    figure, (row,) = panels((6.9, 3.4), 1, 2, sharey=True)
    for axes, axis in zip(row, ("p", "r"), strict=True):
        for name, sweep in scaling[axis].items():
            label = f"{name} (p^{sweep['exponent']:.2f})" if axis == "p" else name
            sizes, seconds, color = sweep["sizes"], sweep["seconds"], colors[name]
            axes.loglog(sizes, seconds, "o-", color=color, markersize=3, label=label)
            # The closed form counts operations. It is scaled to the time at the largest size.
            scale = seconds[-1] / sweep["operations"][-1]
            axes.loglog(sizes, [scale * n for n in sweep["operations"]], ":", color=color)
        sizes = next(iter(scaling[axis].values()))["sizes"]
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        other = f"r = {scaling['rank']}" if axis == "p" else f"p = {scaling['width']}"
        axes.set_xlabel(f"{axis} ({other}); dotted: operations, scaled")
    row[0].set_ylabel("seconds")
    legend(figure, entries(row[:1]), 2)
    return save(figure, folder, "scaling")
