"""The figure of a comparison: metrics over epochs, every optimizer's mean over its seeds with a band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import mean_curves
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.report.figures.style import STYLE, display, legend, lines, save

SETTLED = 0.2  # an accuracy's axis begins where the curves are after this part of the epochs


def draw(evidence: Evidence, metrics: Sequence[str], folder: Path) -> list[Path]:
    """Draw `curves.pdf`, `.png` and `.svg` from completed trials.

    A row for the faithful and one for the consistent arms, and for each level of a factor such as `epochs`; an
    optimizer whose two arms are the same trials is in both.

    Args:
        evidence: Of the trials.
        metrics: What is drawn, a column each.
        folder: Where to write.

    Returns:
        The files; empty if no trial has completed.
    """
    done = evidence.completed_epochs
    if done.empty:
        return []
    arms, curves = done.drop_duplicates("arm"), {metric: mean_curves(done, metric) for metric in metrics}
    rows = [row for level, part in _by_level(arms, evidence.factors) for row in _by_kind(level, part)]
    styles = lines(dict.fromkeys(evidence.by_epoch["optimizer"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(metrics), 2.5 * len(rows) + 0.6), layout="constrained")
        grid = figure.subplots(len(rows), len(metrics), sharex="row", sharey="col", squeeze=False)
        for cells, (title, part) in zip(grid, rows, strict=True):
            for axes, metric in zip(cells, metrics, strict=True):
                _curves(axes, part, curves[metric], unit(metric).scale, styles)
                axes.set_title(title)
        for axes, metric in zip(grid[0], metrics, strict=True):
            _scale(axes, pd.concat(curves[metric])["mean"], metric)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, grid[:, 0], 4)
        return save(figure, folder, "curves")


def _by_level(arms: Any, factors: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the arms of each combination of levels, with a title."""
    if not factors:
        return [("", arms)]
    groups = arms.groupby([*factors], sort=False, dropna=False)
    return [(", ".join(f"{n}={v}" for n, v in zip(factors, key, strict=True)), part) for key, part in groups]


def _by_kind(level: str, arms: Any) -> list[tuple[str, Any]]:
    """Return the faithful and the consistent arms; an arm without a counterpart is in both."""
    kinds = {kind: set(arms.loc[arms["faithful"] == kind, "optimizer"]) for kind in (True, False)}
    if not all(kinds.values()):
        return [(level, arms)]
    words = {True: "as released", False: "consistent"}
    return [
        (
            ", ".join(filter(None, [words[kind], level])),
            arms.loc[(arms["faithful"] == kind) | ~arms["optimizer"].isin(kinds[kind])],
        )
        for kind in kinds
    ]


def _curves(axes: Axes, arms: Any, curves: Mapping[str, Any], scale: float, styles: Mapping[str, Any]) -> None:
    """Draw a line with a band for each optimizer; epoch 1 is the first."""
    for optimizer, arm in zip(arms["optimizer"], arms["arm"], strict=True):
        color, dashes = styles[optimizer]
        table = scale * curves[arm]
        epochs, (low, high) = list(table.index + 1), (table[end].fillna(table["mean"]) for end in ("ci_lo", "ci_hi"))
        axes.plot(epochs, table["mean"], color=color, linestyle=dashes, linewidth=1.2, label=display(optimizer))
        axes.fill_between(epochs, low, high, color=color, alpha=0.13, linewidth=0)


def _scale(axes: Axes, means: Any, metric: str) -> None:
    """Set the range: losses on a logarithmic axis, accuracies from where they have settled, or all would be one line.

    Args:
        axes: The first of a column.
        means: By arm and epoch.
        metric: What is drawn.
    """
    axes.set_ylabel(unit(metric).axis)
    if not higher_is_better(metric):
        axes.set_yscale("log")
        axes.set_ylim(means.min() / 1.3, 1.3 * means.max())
        return
    epochs = means.index.get_level_values(1)
    low, high = 100 * means[epochs >= math.floor(SETTLED * epochs.max())].min(), 100 * means.max()
    axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low) + 1e-9)
