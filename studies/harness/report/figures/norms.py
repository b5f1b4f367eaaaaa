"""The figure of the norms of activation covariances over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from studies.harness.report.figures.style import MAP, REFERENCES, STYLE, SUBJECT, save

BINS = 400  # of steps: a line of every step of a long training is megabytes, and black


def draw_norms(networks: Sequence[Mapping[str, np.ndarray]], folder: Path) -> list[Path]:
    """Draw `norms.pdf`, `.png`, `.svg`: the norm over the steps, convolutions left and linear layers right.

    Args:
        networks: For each `layers`, `convolution` (else linear) and `inputs` of n layers; `norms [steps, n]`.
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
    low, mean, high = ([float(of(part)) for part in bins] for of in (np.nanmin, np.nanmean, np.nanmax))
    axes.fill_between(middle, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(middle, mean, color=color, linestyle=dashes, linewidth=1.2, label=label)
