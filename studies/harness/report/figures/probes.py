"""Figures of the probes: covariance matrices beside their approximations, and their norms over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from studies.harness.report.figures.style import MAP, REFERENCES, STYLE, SUBJECT, panels, save

CLIPPED = 99.5  # percentile of the actual entries at which the scale ends: a few large ones would darken all others
BINS = 400  # of steps: a line of every step of a long training is megabytes, and black
Arrays = Mapping[str, np.ndarray]


@matplotlib.rc_context({**STYLE, "axes.grid": False})
def draw_covariances(arrays: Arrays, approximations: Sequence[str], folder: Path) -> list[Path]:
    """Draw `covariances.pdf`, `.png`, `.svg`: a row of matrices for each layer, on one scale, with their errors.

    Args:
        arrays: `layers` by number; `shown`, numbers of layers; for each i of them `actual/i [p, p]` and
            `root/APPROXIMATION/i [p, r]`, Y of the approximation Y Y^T; `frobenius [layers, approximations, draws]`.
        approximations: Their names, in the order of the errors.
        folder: Where to write.

    Returns:
        The files; empty if no layer is approximated.
    """
    shown = [int(number) for number in arrays["shown"]]
    if not shown:
        return []
    figure, grid = panels((8.6, 2.35 * len(shown) + 0.1), len(shown), 1 + len(approximations))
    for row, number in zip(grid, shown, strict=True):
        _matrices(figure, row, arrays, approximations, number)
    rank = arrays[f"root/{approximations[0]}/{shown[0]}"].shape[1]
    figure.suptitle(f"rank {rank}; error: |A - A^| / |A| in Frobenius norm", fontsize=9)
    return save(figure, folder, "covariances")


def _matrices(
    figure: Figure, row: Sequence[Axes], arrays: Arrays, approximations: Sequence[str], number: int
) -> None:
    """Draw one layer: the actual matrix and each approximation."""
    actual = arrays[f"actual/{number}"]
    low, high = (
        min(0.0, float(np.percentile(actual, 100 - CLIPPED))),
        float(np.percentile(actual, CLIPPED)),
    )
    roots = {kind: arrays[f"root/{kind}/{number}"].astype(float) for kind in approximations}
    matrices = {"actual": actual} | {kind: root @ root.T for kind, root in roots.items()}
    image: Any = None
    for axes, (k, (kind, matrix)) in zip(row, enumerate(matrices.items(), start=-1), strict=True):
        image = axes.imshow(
            matrix, cmap=MAP, vmin=low, vmax=high, interpolation="nearest", rasterized=True
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(
            kind + (f"\nerror {arrays['frobenius'][number, k, 0]:.3f}" if k >= 0 else "")
        )
    row[0].set_ylabel(f"{arrays['layers'][number]} (p = {len(actual)})")
    figure.colorbar(image, ax=list(row), shrink=0.85, pad=0.01, extend="both" if low < 0 else "max")


@matplotlib.rc_context(STYLE)
def draw_norms(networks: Sequence[Arrays], folder: Path) -> list[Path]:
    """Draw `norms.pdf`, `.png`, `.svg`: the norm over the steps, convolutions left and linear layers right.

    Each network has `layers`, `convolution` (else linear) and `inputs` of n layers, and `norms [steps, n]`.
    """
    first = networks[0]
    kinds = {
        "Convolutional layers": first["convolution"],
        "Fully connected layers": ~first["convolution"],
    }
    kinds = {title: np.flatnonzero(chosen) for title, chosen in kinds.items() if chosen.any()}
    norms = np.stack([arrays["norms"] for arrays in networks])
    figure, (row,) = panels((max(4.2, 3.6 * len(kinds)), 3.0), 1, len(kinds))
    for axes, (title, chosen) in zip(row, kinds.items(), strict=True):
        for place, (number, (color, dashes)) in enumerate(
            zip(chosen, _styles(len(chosen)), strict=True)
        ):
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
    """Return a colour and a line style for each layer; by depth if there are too many to distinguish."""
    few = [(SUBJECT, "-"), *REFERENCES]
    if number <= len(few):
        return few[:number]
    return [(matplotlib.colormaps[MAP](place / number), "-") for place in range(number)]


def _norm(axes: Axes, norms: np.ndarray, color: Any, dashes: Any, label: str | None) -> None:
    """Draw a layer's norms `[networks, steps]`: the mean of each bin of steps, shaded from its least to its largest."""
    bins = np.array_split(norms, min(BINS, norms.shape[1]), axis=1)
    ends = np.cumsum([part.shape[1] for part in bins])
    middle = [end - (part.shape[1] - 1) / 2 for end, part in zip(ends, bins, strict=True)]
    low, mean, high = (
        [float(of(part)) for part in bins] for of in (np.nanmin, np.nanmean, np.nanmax)
    )
    axes.fill_between(middle, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(middle, mean, color=color, linestyle=dashes, linewidth=1.2, label=label)
