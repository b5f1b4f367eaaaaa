"""The figure of Remark 5.6: the final loss over the residual of the Nystrom approximation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studies.harness.evidence.metrics import number, words
from studies.harness.report.figures.style import REFERENCES, STYLE, SUBJECT, display, save

MARKERS = {"nysact-g": "o", "nysact-s": "^"}
COLORS = (SUBJECT, *(color for color, _ in REFERENCES))


def draw_residuals(table: Any, orders: Mapping[str, Mapping[str, float]], title: str, folder: Path) -> list[Path]:
    """Draw `residual.pdf`, `.png`, `.svg`: a point for each trial, larger for a larger rank, a line for each seed.

    Args:
        table: A pandas table with the columns `optimizer rank seed residual` and the metrics.
        orders: For each metric, a panel, the rank correlations to print, by optimizer.
        title: Above all.
        folder: Where to write.
    """
    ranks = sorted(table["rank"].unique())
    sizes = {rank: 3 + 4 * place / max(1, len(ranks) - 1) for place, rank in enumerate(ranks)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(orders), 3.3), layout="constrained")
        row = figure.subplots(1, len(orders), squeeze=False)[0]
        for axes, (metric, order) in zip(row, orders.items(), strict=True):
            for optimizer, color in zip(order, COLORS, strict=False):
                for _, trials in table[table["optimizer"] == optimizer].sort_values("rank").groupby("seed"):
                    axes.plot(trials["residual"], trials[metric], color=color, linewidth=0.6, alpha=0.5)
                    for rank, x, y in zip(trials["rank"], trials["residual"], trials[metric], strict=True):
                        axes.plot(x, y, _marker(optimizer), color=color, markersize=sizes[rank], markeredgewidth=0)
            shown = [f"{display(name)} {number(rho, '+.2f')}" for name, rho in order.items()]
            axes.set_title(", ".join(shown), fontsize=8.5)
            axes.set_xlabel("mean Nystrom residual |A - A^| / |A|")
            axes.set_ylabel(f"final {words(metric)}")
        colors = zip(next(iter(orders.values())), COLORS, strict=False)
        entries = [_point(display(name), _marker(name), color, 5) for name, color in colors]
        entries += [_point(f"r = {rank}", "o", "0.5", size) for rank, size in sizes.items()]
        figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
        figure.suptitle(title, fontsize=9)
        return save(figure, folder, "residual")


def _marker(optimizer: str) -> str:
    return MARKERS.get(optimizer, "s")


def _point(label: str, marker: str, color: str, size: float) -> Line2D:
    """Return an entry of a legend."""
    return Line2D([], [], linestyle="", marker=marker, color=color, markersize=size, markeredgewidth=0, label=label)
