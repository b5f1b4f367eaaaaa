"""The figure of the covariances: matrices beside their approximations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.harness.report.figures.style import MAP, STYLE, save

CLIPPED = 99.5  # percentile of the actual entries at which the scale ends: a few large ones would darken all others
Arrays = Mapping[str, np.ndarray]


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
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(8.6, 2.35 * len(shown) + 0.1), layout="constrained")
        grid = figure.subplots(len(shown), 1 + len(approximations), squeeze=False)
        for row, number in zip(grid, shown, strict=True):
            _matrices(figure, row, arrays, approximations, number)
        rank = arrays[f"root/{approximations[0]}/{shown[0]}"].shape[1]
        figure.suptitle(f"rank {rank}; error: |A - A^| / |A| in Frobenius norm", fontsize=9)
        return save(figure, folder, "covariances")


def _matrices(figure: Figure, row: Sequence[Axes], arrays: Arrays, approximations: Sequence[str], number: int) -> None:
    """Draw one layer: the actual matrix and each approximation."""
    actual = arrays[f"actual/{number}"]
    low, high = min(0.0, float(np.percentile(actual, 100 - CLIPPED))), float(np.percentile(actual, CLIPPED))
    roots = {kind: arrays[f"root/{kind}/{number}"].astype(float) for kind in approximations}
    matrices = {"actual": actual} | {kind: root @ root.T for kind, root in roots.items()}
    image: Any = None
    for axes, (k, (kind, matrix)) in zip(row, enumerate(matrices.items(), start=-1), strict=True):
        image = axes.imshow(matrix, cmap=MAP, vmin=low, vmax=high, interpolation="nearest", rasterized=True)
        axes.set_xticks([])
        axes.set_yticks([])
        error = f"\nerror {arrays['frobenius'][number, k, 0]:.3f}" if k >= 0 else ""
        axes.set_title(kind + error)
    row[0].set_ylabel(f"{arrays['layers'][number]} (p = {len(actual)})")
    figure.colorbar(image, ax=list(row), shrink=0.85, pad=0.01, extend="both" if low < 0 else "max")
