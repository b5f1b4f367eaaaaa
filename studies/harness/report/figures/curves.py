"""Figures of lines with bands: metrics and diagnostics over epochs, the best score of a search over its budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import mean_curves
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.report.figures.style import (
    REFERENCES,
    STYLE,
    SUBJECT,
    display,
    legend,
    lines,
    panels,
    save,
)

SETTLED = 0.2  # an accuracy's axis begins where the curves are after this part of the epochs
# The panels of the diagnostics, and True for a logarithmic axis.
DIAGNOSTICS = {
    "diag/stable_rank_median": ("stable rank, median", False),
    "diag/top_over_damping_max": ("top eigenvalue / damping, max", True),
    "diag/residual_max": ("residual of the low-rank factor, max", False),
    "diag/staleness_max": ("staleness, max", False),
    "diag/cosine_median": ("cosine to the gradient, median", False),
    "diag/update_over_weight_median": ("update / weight, median", True),
}

# ---------------------------------------------------------------------- metrics over epochs


@matplotlib.rc_context(STYLE)
def draw(evidence: Evidence, metrics: Sequence[str], folder: Path) -> list[Path]:
    """Draw `curves.pdf`, `.png` and `.svg` from completed trials, a column for each metric; nothing without any.

    A row for the as-released and one for the corrected variants, and for each level of a factor such as `epochs`; an
    optimizer whose two arms are the same trials is in both.
    """
    done = evidence.completed_epochs
    if done.empty:
        return []
    arms, curves = (
        done.drop_duplicates("arm"),
        {metric: mean_curves(done, metric) for metric in metrics},
    )
    rows = [
        row for level, part in _by_level(arms, evidence.factors) for row in _by_kind(level, part)
    ]
    styles = lines(dict.fromkeys(evidence.by_epoch["optimizer"]))
    size = (3.4 * len(metrics), 2.5 * len(rows) + 0.6)
    figure, grid = panels(size, len(rows), len(metrics), sharex="row", sharey="col")
    for cells, (title, part) in zip(grid, rows, strict=True):
        for axes, metric in zip(cells, metrics, strict=True):
            _curves(axes, part, curves[metric], unit(metric).scale, styles)
            axes.set_title(title)
    for axes, metric in zip(grid[0], metrics, strict=True):
        _scale(axes, pd.concat(curves[metric])["mean"], metric)
    for axes in grid[-1]:
        _whole(axes, "epoch")
    legend(figure, grid[:, 0], 4)
    return save(figure, folder, "curves")


def _by_level(arms: Any, factors: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the arms of each combination of levels, with a title."""
    if not factors:
        return [("", arms)]
    groups = arms.groupby([*factors], sort=False, dropna=False)
    return [
        (", ".join(f"{n}={v}" for n, v in zip(factors, key, strict=True)), part)
        for key, part in groups
    ]


def _by_kind(level: str, arms: Any) -> list[tuple[str, Any]]:
    """Return the as-released and the corrected variants; an arm without a counterpart is in both."""
    kinds = {
        kind: set(arms.loc[arms["as_released"] == kind, "optimizer"]) for kind in (True, False)
    }
    if not all(kinds.values()):
        return [(level, arms)]
    titles = {
        kind: ", ".join(filter(None, [word, level]))
        for kind, word in ((True, "as released"), (False, "corrected"))
    }
    return [
        (
            titles[kind],
            arms.loc[(arms["as_released"] == kind) | ~arms["optimizer"].isin(kinds[kind])],
        )
        for kind in kinds
    ]


def _curves(
    axes: Axes, arms: Any, curves: Mapping[str, Any], scale: float, styles: Mapping[str, Any]
) -> None:
    """Draw a line with a band for each optimizer; epoch 1 is the first."""
    for optimizer, arm in zip(arms["optimizer"], arms["arm"], strict=True):
        color, dashes = styles[optimizer]
        table = scale * curves[arm]
        epochs, (low, high) = (
            list(table.index + 1),
            (table[end].fillna(table["mean"]) for end in ("ci_lo", "ci_hi")),
        )
        axes.plot(
            epochs,
            table["mean"],
            color=color,
            linestyle=dashes,
            linewidth=1.2,
            label=display(optimizer),
        )
        axes.fill_between(epochs, low, high, color=color, alpha=0.13, linewidth=0)


def _scale(axes: Axes, means: Any, metric: str) -> None:
    """Set the range by the means [arm, epoch]: a loss on a logarithmic axis, an accuracy from where it has settled."""
    axes.set_ylabel(unit(metric).axis)
    if not higher_is_better(metric):
        axes.set_yscale("log")
        axes.set_ylim(means.min() / 1.3, 1.3 * means.max())
        return
    epochs = means.index.get_level_values(1)
    low, high = 100 * means[epochs >= math.floor(SETTLED * epochs.max())].min(), 100 * means.max()
    axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low) + 1e-9)


def _whole(axes: Axes, label: str) -> None:
    """Set the label of an axis of whole numbers."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# ---------------------------------------------------------------------- diagnostics over epochs


@matplotlib.rc_context(STYLE)
def draw_diagnostics(by_epoch: Any, folder: Path) -> list[Path]:
    """Draw `diagnostics.pdf`, `.png` and `.svg`: each arm's mean over its seeds.

    Trials without diagnostics are left out and counted; without any with them nothing is drawn.
    """
    names = [name for name in DIAGNOSTICS if name in by_epoch and by_epoch[name].notna().any()]
    if not names:
        return []
    shown = by_epoch.dropna(subset=names, how="all")
    counts = [table["trial_key"].nunique() for table in (shown, by_epoch)]
    rows = math.ceil(len(names) / 3)
    figure, grid = panels((9.6, 2.6 * rows + 0.5), rows, 3, sharex=True)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        title, logarithmic = DIAGNOSTICS[name]
        styles = itertools.cycle([(SUBJECT, "-"), *REFERENCES])
        for (arm, table), (color, dashes) in zip(
            mean_curves(shown, name).items(), styles, strict=False
        ):
            axes.plot(table["mean"], color=color, linestyle=dashes, linewidth=1.2, label=arm)
        axes.set_title(title)
        if logarithmic:
            axes.set_yscale("log")
        _whole(axes, "epoch")
    legend(figure, grid[0, :1], 4)
    figure.suptitle(f"{counts[0]} of {counts[1]} trials have diagnostics", fontsize=9)
    return save(figure, folder, "diagnostics")


# ---------------------------------------------------------------------- the best score over a search's budget


@matplotlib.rc_context(STYLE)
def draw_best_of_k(curves: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Draw `best_of_k.pdf`, `.png` and `.svg` of each optimizer's `budgets.best_of_k` of validation accuracies."""
    if not curves:
        return []
    styles = lines(curves)
    figure, ((axes,),) = panels((4.8, 3.4))
    for name, curve in curves.items():
        color, dashes = styles[name]
        known = curve.dropna(subset=["mean"])
        k, mean, low, high = known["k"], *(100 * known[column] for column in ("mean", "lo", "hi"))
        axes.plot(k, mean, color=color, linestyle=dashes, linewidth=1.2, label=display(name))
        axes.fill_between(k, low, high, color=color, alpha=0.10, linewidth=0)
    # The means from k = 2 set the range: one random draw may be far below, and all would be one line.
    means = np.concatenate(
        [100 * curve["mean"].to_numpy()[min(1, len(curve) - 1) :] for curve in curves.values()]
    )
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    margin = 0.1 * max(high - low, 0.5)
    axes.set_ylim(low - margin, high + margin)
    _whole(axes, "k configurations")
    axes.set_ylabel("best validation accuracy (%)")
    legend(figure, [axes], 4)
    return save(figure, folder, "best_of_k")
