"""Figures of the theory: the final loss over the residual (Remark 5.6), times over sizes beside Table 1's forms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from studies.harness.evidence.metrics import number, words
from studies.harness.report.figures.style import (
    REFERENCES,
    STYLE,
    SUBJECT,
    display,
    legend,
    panels,
    save,
)

MARKERS = {"nysact-g": "o", "nysact-s": "^"}
COLORS = (SUBJECT, *(color for color, _ in REFERENCES))


@matplotlib.rc_context(STYLE)
def draw_residuals(
    table: Any, orders: Mapping[str, Mapping[str, float]], title: str, folder: Path
) -> list[Path]:
    """Draw `residual.pdf`, `.png`, `.svg`: a point for each trial, larger for a larger rank, a line for each seed.

    Args:
        table: A pandas table with the columns `optimizer rank seed residual` and the metrics.
        orders: For each metric, a panel, the rank correlations to print, by optimizer.
        title: Above all.
        folder: Where to write.
    """
    ranks = sorted(table["rank"].unique())
    sizes = {rank: 3 + 4 * place / max(1, len(ranks) - 1) for place, rank in enumerate(ranks)}
    figure, (row,) = panels((3.6 * len(orders), 3.3), 1, len(orders))
    for axes, (metric, order) in zip(row, orders.items(), strict=True):
        for optimizer, color in zip(order, COLORS, strict=False):
            for _, trials in (
                table[table["optimizer"] == optimizer].sort_values("rank").groupby("seed")
            ):
                axes.plot(trials["residual"], trials[metric], color=color, linewidth=0.6, alpha=0.5)
                for rank, x, y in zip(
                    trials["rank"], trials["residual"], trials[metric], strict=True
                ):
                    axes.plot(
                        x,
                        y,
                        _marker(optimizer),
                        color=color,
                        markersize=sizes[rank],
                        markeredgewidth=0,
                    )
        axes.set_title(
            ", ".join(f"{display(k)} {number(rho, '+.2f')}" for k, rho in order.items()),
            fontsize=8.5,
        )
        axes.set_xlabel("mean Nystrom residual |A - A^| / |A|")
        axes.set_ylabel(f"final {words(metric)}")
    colors = zip(next(iter(orders.values())), COLORS, strict=False)
    points = [(display(name), _marker(name), color, 5) for name, color in colors]
    points += [(f"r = {rank}", "o", "0.5", size) for rank, size in sizes.items()]
    entries = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            color=color,
            markersize=size,
            markeredgewidth=0,
            label=label,
        )
        for label, marker, color, size in points
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
    figure.suptitle(title, fontsize=9)
    return save(figure, folder, "residual")


def _marker(optimizer: str) -> str:
    return MARKERS.get(optimizer, "s")


@matplotlib.rc_context(STYLE)
def draw_scaling(scaling: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw `scaling.pdf`, `.png` and `.svg` of the result of `trainables.cost.scaling.measure`."""
    colors = dict(zip(scaling["p"], (*COLORS, "black"), strict=False))
    figure, (row,) = panels((6.9, 3.4), 1, 2, sharey=True)
    for axes, axis in zip(row, ("p", "r"), strict=True):
        for name, sweep in scaling[axis].items():
            slope = f"{name} (p^{sweep['exponent']:.2f})" if axis == "p" else name
            axes.loglog(
                sweep["sizes"],
                sweep["seconds"],
                "o-",
                color=colors[name],
                markersize=3,
                label=slope,
            )
            # The closed form passes through the largest size, because it does not know the machine's speed.
            scale = sweep["seconds"][-1] / sweep["operations"][-1]
            axes.loglog(
                sweep["sizes"], [scale * n for n in sweep["operations"]], ":", color=colors[name]
            )
        sizes = next(iter(scaling[axis].values()))["sizes"]
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        other = f"r = {scaling['rank']}" if axis == "p" else f"p = {scaling['width']}"
        axes.set_xlabel(f"{axis} ({other}); dotted: the closed form")
    row[0].set_ylabel("seconds")
    legend(figure, row[:1], 2)
    return save(figure, folder, "scaling")
