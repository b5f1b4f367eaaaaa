"""The figures of the probes, and of Remark 5.6, in the style of `figures.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from studies.harness.kinds.probe.covariances import APPROXIMATIONS, approximate
from studies.harness.kinds.probe.probe import Arrays
from studies.harness.report.figures.style import REFERENCES, STYLE, SUBJECT, display, save
from studies.harness.report.wording import number

MAP = "cividis"  # its lightness rises evenly, also for the colour-blind and in grayscale
CLIPPED = 99.5  # percentile of the actual entries at which the scale ends: a few large ones would darken all others
BINS = 400  # of steps: a line of every step of a long training is megabytes, and black
MARKERS = {"nysact-g": "o", "nysact-s": "^"}


def draw_covariances(arrays: Arrays, folder: Path) -> list[Path]:
    """Draw `covariances.pdf`, `.png`, `.svg`: a row of matrices for each layer, on one scale, with their errors.

    Args:
        arrays: What `covariances.Covariances.arrays` returns.
        folder: Where to write.

    Returns:
        The files; empty when no layer is approximated.
    """
    shown = [int(number) for number in arrays["shown"]]
    if not shown:
        return []
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(8.6, 2.35 * len(shown) + 0.1), layout="constrained")
        grid = figure.subplots(len(shown), 1 + len(APPROXIMATIONS), squeeze=False)
        for row, number in zip(grid, shown, strict=True):
            _matrices(figure, row, arrays, number)
        rank = arrays[f"root/{APPROXIMATIONS[0]}/{shown[0]}"].shape[1]
        figure.suptitle(f"rank {rank}; error: |A - A^| / |A| in Frobenius norm", fontsize=9)
        return save(figure, folder, "covariances")


def _matrices(figure: Figure, row: Sequence[Axes], arrays: Arrays, number: int) -> None:
    """One layer: the actual matrix and each approximation."""
    actual = arrays[f"actual/{number}"]
    low, high = min(0.0, float(np.percentile(actual, 100 - CLIPPED))), float(np.percentile(actual, CLIPPED))
    matrices = {"actual": actual} | {kind: approximate(arrays, kind, number) for kind in APPROXIMATIONS}
    image: Any = None
    for axes, (k, (kind, matrix)) in zip(row, enumerate(matrices.items(), start=-1), strict=True):
        image = axes.imshow(matrix, cmap=MAP, vmin=low, vmax=high, interpolation="nearest", rasterized=True)
        axes.set_xticks([])
        axes.set_yticks([])
        error = f"\nerror {arrays['frobenius'][number, k, 0]:.3f}" if k >= 0 else ""
        axes.set_title(kind + error)
    row[0].set_ylabel(f"{arrays['layers'][number]} (p = {len(actual)})")
    figure.colorbar(image, ax=list(row), shrink=0.85, pad=0.01, extend="both" if low < 0 else "max")


def draw_norms(networks: Sequence[Arrays], folder: Path) -> list[Path]:
    """Draw `norms.pdf`, `.png`, `.svg`: the norm over the steps, convolutions left and linear layers right.

    Args:
        networks: What `norms.Norms.measure` returned for each.
        folder: Where to write.
    """
    first = networks[0]
    panels = {"Convolutional layers": first["convolution"], "Fully connected layers": ~first["convolution"]}
    panels = {title: np.flatnonzero(chosen) for title, chosen in panels.items() if chosen.any()}
    norms = np.stack([arrays["norms"] for arrays in networks])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, 3.6 * len(panels)), 3.0), layout="constrained")
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, chosen) in zip(row, panels.items(), strict=True):
            for place, (number, (color, dashes)) in enumerate(zip(chosen, _styles(len(chosen)), strict=True)):
                named = len(chosen) <= len(REFERENCES) + 1 or place in (0, len(chosen) - 1)
                label = f"{first['layers'][number]} (p = {first['inputs'][number]})" if named else None
                _norm(axes, norms[:, :, number], color, dashes, label)
            axes.set_title(title)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter())
            axes.set_xlabel("iteration")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        row[0].set_ylabel("Frobenius norm of the covariance")
        return save(figure, folder, "norms")


def _styles(number: int) -> list[tuple[Any, Any]]:
    """A colour and a line style for each layer; by depth where there are too many to tell apart."""
    few = [(SUBJECT, "-"), *REFERENCES]
    if number <= len(few):
        return few[:number]
    return [(matplotlib.colormaps[MAP](place / number), "-") for place in range(number)]


def _norm(axes: Axes, norms: np.ndarray, color: Any, dashes: Any, label: str | None) -> None:
    """One layer's norms `[networks, steps]`: the mean of each bin of steps, shaded from its least to its largest."""
    bins = np.array_split(norms, min(BINS, norms.shape[1]), axis=1)
    ends = np.cumsum([part.shape[1] for part in bins])
    middle = [end - (part.shape[1] - 1) / 2 for end, part in zip(ends, bins, strict=True)]
    low, mean, high = ([float(of(part)) for part in bins] for of in (np.nanmin, np.nanmean, np.nanmax))
    axes.fill_between(middle, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(middle, mean, color=color, linestyle=dashes, linewidth=1.2, label=label)


def draw_residuals(table: Any, orders: Mapping[str, Mapping[str, float]], title: str, folder: Path) -> list[Path]:
    """Draw `residual.pdf`, `.png`, `.svg`: a point for each trial, larger for a larger rank, a line for each seed.

    Args:
        table: A pandas table with the columns `optimizer rank seed residual` and the metrics.
        orders: For each metric, a panel, the rank correlations to be stated, by optimizer.
        title: Above all.
        folder: Where to write.
    """
    ranks = sorted(table["rank"].unique())
    sizes = {rank: 3 + 4 * place / max(1, len(ranks) - 1) for place, rank in enumerate(ranks)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(orders), 3.3), layout="constrained")
        row = figure.subplots(1, len(orders), squeeze=False)[0]
        for axes, (metric, order) in zip(row, orders.items(), strict=True):
            for optimizer, color in zip(order, (SUBJECT, *(color for color, _ in REFERENCES)), strict=False):
                for _, trials in table[table["optimizer"] == optimizer].sort_values("rank").groupby("seed"):
                    axes.plot(trials["residual"], trials[metric], color=color, linewidth=0.6, alpha=0.5)
                    for rank, x, y in zip(trials["rank"], trials["residual"], trials[metric], strict=True):
                        axes.plot(x, y, _marker(optimizer), color=color, markersize=sizes[rank], markeredgewidth=0)
            shown = [f"{display(name)} {number(rho, '+.2f')}" for name, rho in order.items()]
            axes.set_title(", ".join(shown), fontsize=8.5)
            axes.set_xlabel("mean Nystrom residual |A - A^| / |A|")
            axes.set_ylabel(f"final {metric.replace('/', ' ')}")
        colors = zip(next(iter(orders.values())), (SUBJECT, *(color for color, _ in REFERENCES)), strict=False)
        entries = [_point(display(name), _marker(name), color, 5) for name, color in colors]
        entries += [_point(f"r = {rank}", "o", "0.5", size) for rank, size in sizes.items()]
        figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
        figure.suptitle(title, fontsize=9)
        return save(figure, folder, "residual")


def _marker(optimizer: str) -> str:
    return MARKERS.get(optimizer, "s")


def _point(label: str, marker: str, color: str, size: float) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], linestyle="", marker=marker, color=color, markersize=size, markeredgewidth=0, label=label)
