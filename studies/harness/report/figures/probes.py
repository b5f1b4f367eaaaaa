"""Figures of the probes: covariance matrices with their approximations, norms over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from studies.harness.report.figures.style import LINES, MAP, STYLE, panels, save

# The colour scale ends at this percentile of the entries of the actual matrix. Otherwise, a few large
# entries would make all others dark.
CLIPPED = 99.5
# Steps are averaged in at most this many bins: a line through all steps of a long training would be
# a large file and hard to read.
BINS = 400
Arrays = Mapping[str, np.ndarray]


@matplotlib.rc_context({**STYLE, "axes.grid": False})
def draw_covariances(arrays: Arrays, approximations: Sequence[str], folder: Path) -> list[Path]:
    """Draw `covariances.pdf`, `.png` and `.svg`: one row of matrices per layer, with their errors.

    The matrices of a row share one colour scale.

    Args:
        arrays: `layers`: names of the layers. `shown`: indices of the layers to draw. For each of
            these indices i, `actual/i [p, p]`, and `root/APPROXIMATION/i [p, r]`, the factor Y of
            the approximation Y Y^T. `frobenius [layers, approximations, draws]`: relative errors.
        approximations: Names of the approximations, in the order of the errors.
        folder: The folder to write to.

    Returns:
        The paths of the files; empty if no layer is approximated.
    """
    shown = [int(number) for number in arrays["shown"]]
    if not shown:
        return []
    figure, grid = panels((8.6, 2.35 * len(shown) + 0.1), len(shown), 1 + len(approximations))
    for row, number in zip(grid, shown, strict=True):
        _matrices(figure, row, arrays, approximations, number)
    rank = arrays[f"root/{approximations[0]}/{shown[0]}"].shape[1]
    title = f"rank {rank}; error: |actual - approximation| / |actual| in the Frobenius norm"
    figure.suptitle(title, fontsize=9)
    return save(figure, folder, "covariances")


def _matrices(
    figure: Figure, row: Sequence[Axes], arrays: Arrays, approximations: Sequence[str], number: int
) -> None:
    """Draw the actual matrix of a layer and its approximations."""
    actual = arrays[f"actual/{number}"]
    low = min(0.0, float(np.percentile(actual, 100 - CLIPPED)))
    high = float(np.percentile(actual, CLIPPED))
    roots = {kind: arrays[f"root/{kind}/{number}"].astype(float) for kind in approximations}
    matrices = {"actual": actual} | {kind: root @ root.T for kind, root in roots.items()}
    image: Any = None
    for axes, (k, (kind, matrix)) in zip(row, enumerate(matrices.items(), start=-1), strict=True):
        image = axes.imshow(
            matrix, cmap=MAP, vmin=low, vmax=high, interpolation="nearest", rasterized=True
        )
        axes.set_xticks([])
        axes.set_yticks([])
        error = f"\nerror {arrays['frobenius'][number, k, 0]:.3f}" if k >= 0 else ""
        axes.set_title(f"{kind}{error}")
    row[0].set_ylabel(f"layer {arrays['layers'][number]} (p = {len(actual)})")
    figure.colorbar(image, ax=list(row), shrink=0.85, pad=0.01, extend="both" if low < 0 else "max")


@matplotlib.rc_context(STYLE)
def draw_norms(networks: Sequence[Arrays], folder: Path) -> list[Path]:
    """Draw `norms.pdf`, `.png` and `.svg`: the norms over steps, one panel per kind of layer.

    Each network has `layers`, `convolution` (False for linear layers) and `inputs` [n] for its n
    layers, and `norms` [steps, n].
    """
    first = networks[0]
    masks = {
        "Convolutional layers": first["convolution"],
        "Fully connected layers": ~first["convolution"],
    }
    kinds = {title: np.flatnonzero(mask) for title, mask in masks.items() if mask.any()}
    norms = np.stack([arrays["norms"] for arrays in networks])
    figure, (row,) = panels((max(4.2, 3.6 * len(kinds)), 3.0), 1, len(kinds))
    for axes, (title, layers) in zip(row, kinds.items(), strict=True):
        all_named = len(layers) <= len(LINES)
        styles = _styles(len(layers))
        for number, (color, dashes) in zip(layers, styles, strict=True):
            named = all_named or number in (layers[0], layers[-1])
            label = f"{first['layers'][number]} (p = {first['inputs'][number]})" if named else None
            _norm(axes, norms[:, :, number], color, dashes, label)
        axes.set_title(title)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter())
        axes.set_xlabel("step")
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, title="layer (p: inputs)"
        )
    row[0].set_ylabel("Frobenius norm of the covariance")
    figure.suptitle("mean over the networks, with the smallest and the largest norm", fontsize=9)
    return save(figure, folder, "norms")


def _styles(number: int) -> list[tuple[Any, Any]]:
    """Return each layer's colour and line style; for many layers, the colour shows the depth."""
    if number <= len(LINES):
        return [*LINES[:number]]
    return [(matplotlib.colormaps[MAP](place / number), "-") for place in range(number)]


def _norm(axes: Axes, norms: np.ndarray, color: Any, dashes: Any, label: str | None) -> None:
    """Draw the norms `[networks, steps]` of a layer: the mean of each bin, and its range as a band."""
    bins = np.array_split(norms, min(BINS, norms.shape[1]), axis=1)
    ends = np.cumsum([part.shape[1] for part in bins])
    middle = [end - (part.shape[1] - 1) / 2 for end, part in zip(ends, bins, strict=True)]
    functions = (np.nanmin, np.nanmean, np.nanmax)
    low, mean, high = ([float(function(part)) for part in bins] for function in functions)
    axes.fill_between(middle, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(middle, mean, color=color, linestyle=dashes, linewidth=1.2, label=label)
