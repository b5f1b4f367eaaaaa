"""The figure of a comparison: metrics over epochs, every optimizer's mean over its seeds with a band."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from studies.harness.evidence.ledger import COMPLETED, factors
from studies.harness.evidence.statistics import CONFIDENCE
from studies.harness.kinds.study.study import CurveFigure, Study
from studies.harness.report.figures.style import STYLE, display, save

# Okabe and Ito; told apart by dashes in grayscale. The first are whose they are, the others go round.
OWN = {"sgd": ("black", "-"), "nysact-s": ("#0072B2", "-"), "nysact-g": ("#56B4E9", (0, (6, 2)))}
LINES = (
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
    ("0.55", (0, (3, 1, 1, 1))),
)
SETTLED = 0.2  # an accuracy's axis begins where the curves are after this part of the epochs


def draw(study: Study, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the study's figure, if it is one of curves, as `curves.pdf`, `.png` and `.svg`.

    A row for the faithful and one for the consistent arms, and for each level of a factor such as `epochs`; an
    optimizer whose two arms are the same trials is in both.

    Args:
        study: Its `figure` says what is drawn.
        frame: `ledger.frame(..., per="epoch")`; completed trials alone are drawn.
        folder: Where to write.

    Returns:
        The files; empty when no trial has completed.
    """
    spec = study.figure
    done = frame.loc[frame["status"] == COMPLETED]
    if not isinstance(spec, CurveFigure) or done.empty:
        return []
    rows = [(title, part) for level, some in _by_level(done) for title, part in _by_kind(level, some)]
    others = itertools.cycle(LINES)
    styles = {str(name): OWN.get(str(name)) or next(others) for name in dict.fromkeys(frame["optimizer"])}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(spec.metrics), 2.5 * len(rows) + 0.6), layout="constrained")
        grid = figure.subplots(len(rows), len(spec.metrics), sharex="row", sharey="col", squeeze=False)
        for cells, (title, part) in zip(grid, rows, strict=True):
            for axes, metric in zip(cells, spec.metrics, strict=True):
                _curves(axes, part, metric, styles)
                axes.set_title(title)
        for axes, metric in zip(grid[0], spec.metrics, strict=True):
            _scale(axes, done, metric)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        found = [axes.get_legend_handles_labels() for axes in grid[:, 0]]
        entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)
        return save(figure, folder, "curves")


def _by_level(frame: Any) -> list[tuple[str, Any]]:
    """The arms of each combination of levels, and how they are called."""
    names = factors(frame)
    if not names:
        return [("", frame)]
    groups = frame.groupby(names, sort=False, dropna=False)
    return [(", ".join(f"{n}={v}" for n, v in zip(names, key, strict=True)), part) for key, part in groups]


def _by_kind(level: str, frame: Any) -> list[tuple[str, Any]]:
    """The faithful and the consistent arms; one that has no counterpart is in both."""
    kinds = {kind: set(frame.loc[frame["faithful"] == kind, "optimizer"]) for kind in (True, False)}
    if not all(kinds.values()):
        return [(level, frame)]
    words = {True: "as released", False: "consistent"}
    return [
        (
            ", ".join(filter(None, [words[kind], level])),
            frame.loc[(frame["faithful"] == kind) | ~frame["optimizer"].isin(kinds[kind])],
        )
        for kind in kinds
    ]


def _curves(axes: Axes, frame: Any, metric: str, styles: Mapping[str, Any]) -> None:
    """A line with a band for each optimizer; epoch 1 is the first."""
    scale = 100 if "accuracy" in metric else 1
    for optimizer, part in frame.groupby("optimizer", sort=False):
        color, dashes = styles[str(optimizer)]
        found = part.groupby("epoch")[metric].agg(["mean", "std", "count"])
        epochs, mean = list(found.index + 1), scale * found["mean"].to_numpy()
        axes.plot(epochs, mean, color=color, linestyle=dashes, linewidth=1.2, label=display(str(optimizer)))
        half = scale * _half(found["std"].to_numpy(), found["count"].to_numpy())
        axes.fill_between(epochs, mean - half, mean + half, color=color, alpha=0.13, linewidth=0)


def _half(sd: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Half the 95% Student t interval of a mean; 0 of one run."""
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(n - 1, 1))
    return np.where(n > 1, quantile * np.nan_to_num(sd) / np.sqrt(n), 0.0)


def _scale(axes: Axes, frame: Any, metric: str) -> None:
    """By the means: losses on a logarithmic axis, accuracies from where they have settled, or all would be one line."""
    axes.set_ylabel(metric.replace("/", " ") + (" (%)" if "accuracy" in metric else ""))
    means = frame.groupby(["arm", "epoch"])[metric].mean()
    if "accuracy" not in metric:
        axes.set_yscale("log")
        axes.set_ylim(means.min() / 1.3, 1.3 * means.max())
        return
    settled = means[means.index.get_level_values("epoch") >= math.floor(SETTLED * frame["epoch"].max())]
    low, high = 100 * settled.min(), 100 * means.max()
    axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low) + 1e-9)
