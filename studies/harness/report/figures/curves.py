"""Figures of curves: metrics and diagnostics over epochs, the best of k scores over k."""

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
from studies.harness.evidence.metrics import higher_is_better, metric_name, unit
from studies.harness.report.figures.style import (
    REFERENCES,
    STYLE,
    SUBJECT,
    display,
    legend,
    lines,
    panels,
    save,
    set_logarithmic,
)

# An axis that is not logarithmic ends at the worst mean after this fraction of the epochs.
SETTLED = 0.2
# Smallest range of the vertical axis of the best of k: this fraction of 100% for metrics in percent,
# otherwise of the largest mean.
FLAT = 0.005
LINES = ((SUBJECT, "-"), *REFERENCES)  # the styles of the arms in the figure of diagnostics
# The title of each panel of diagnostics, and True for a logarithmic axis.
DIAGNOSTICS = {
    "diag/stable_rank_median": ("stable rank\n(median over layers)", False),
    "diag/top_over_damping_max": ("largest eigenvalue / damping\n(maximum over layers)", True),
    "diag/residual_max": ("residual of the approximation\n(maximum over layers)", False),
    "diag/staleness_max": ("staleness at the last refresh\n(maximum over layers)", False),
    "diag/cosine_median": ("cosine of direction and gradient\n(median over layers)", False),
    "diag/update_over_weight_median": ("|update| / |weight|\n(median over layers)", True),
}

# ---------------------------------------------------------------------- metrics over epochs


@matplotlib.rc_context(STYLE)
def draw(evidence: Evidence, metrics: Sequence[str], folder: Path) -> list[Path]:
    """Draw `curves.pdf`, `.png` and `.svg` from the completed trials; nothing if there are none.

    There is one column for each metric. The rows are the combinations of levels, each divided into
    as-released and corrected variants. An optimizer with only one variant is in both rows.
    """
    completed = evidence.completed_epochs
    if completed.empty:
        return []
    arms = completed.drop_duplicates("arm")
    curves = {metric: mean_curves(completed, metric) for metric in metrics}
    levels = _by_level(arms, evidence.factors)
    rows = [row for level, part in levels for row in _by_variant(level, part)]
    styles = lines(dict.fromkeys(evidence.by_epoch["optimizer"]))
    size = (3.4 * len(metrics), 2.5 * len(rows) + 0.6)
    figure, grid = panels(size, len(rows), len(metrics), sharex="row", sharey="col")
    for cells, (title, part) in zip(grid, rows, strict=True):
        for axes, metric in zip(cells, metrics, strict=True):
            _curves(axes, part, curves[metric], unit(metric).scale, styles)
            axes.set_title(title)
    for axes, metric in zip(grid[0], metrics, strict=True):
        _scale(axes, pd.concat(curves[metric])["mean"], metric)
    for axes in grid.flat:
        _set_integer_axis(axes, "")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    legend(figure, grid[:, 0], 4)
    figure.suptitle("mean over seeds, with its 95% t-interval", fontsize=9)
    return save(figure, folder, "curves")


def _by_level(arms: Any, factors: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the arms of each combination of levels, with a title.

    The arms without any factor are a combination, too.
    """
    if not factors:
        return [("", arms)]
    groups = arms.groupby([*factors], sort=False, dropna=False)
    rows = []
    for key, part in groups:
        levels = [f"{n}={v}" for n, v in zip(factors, key, strict=True) if not pd.isna(v)]
        rows.append((", ".join(levels) or "other arms", part))
    return rows


def _by_variant(level: str, arms: Any) -> list[tuple[str, Any]]:
    """Return the arms of each variant; an optimizer with only one variant is in both."""
    variants = []
    for as_released, name in ((True, "as-released"), (False, "corrected")):
        selected = arms["as_released"] == as_released
        optimizers = set(arms.loc[selected, "optimizer"])
        if not optimizers:
            return [(level, arms)]
        title = ", ".join(filter(None, [name, level]))
        variants.append((title, arms.loc[selected | ~arms["optimizer"].isin(optimizers)]))
    return variants


def _curves(
    axes: Axes, arms: Any, curves: Mapping[str, Any], scale: float, styles: Mapping[str, Any]
) -> None:
    """Draw the mean with its 95% t-interval for each optimizer; the first epoch is 1."""
    for optimizer, arm in zip(arms["optimizer"], arms["arm"], strict=True):
        color, dashes = styles[optimizer]
        table = scale * curves[arm]
        epochs = list(table.index + 1)
        low, high = (table[end].fillna(table["mean"]) for end in ("ci_lo", "ci_hi"))
        look = {"color": color, "linestyle": dashes, "linewidth": 1.2}
        axes.plot(epochs, table["mean"], label=display(optimizer), **look)
        axes.fill_between(epochs, low, high, color=color, alpha=0.13, linewidth=0)


def _scale(axes: Axes, means: Any, metric: str) -> None:
    """Set the range of an axis from the means [arm, epoch].

    The axis is logarithmic if smaller values are better and all values are positive.
    """
    axes.set_ylabel(unit(metric).axis)
    higher, means = higher_is_better(metric), unit(metric).scale * means[np.isfinite(means)]
    if means.empty:
        return
    if not higher and set_logarithmic(axes, means):
        return
    epochs = means.index.get_level_values(1)
    settled = means[epochs >= math.floor(SETTLED * epochs.max())]
    settled = means if settled.empty else settled
    ends = (settled.min(), means.max()) if higher else (settled.max(), means.min())
    worst, best = ends[0] + 0.05 * (ends[0] - ends[1]), ends[1] + 0.15 * (ends[1] - ends[0])
    axes.set_ylim(min(worst, best), max(worst, best) + 1e-9)


def _set_integer_axis(axes: Axes, label: str) -> None:
    """Set the label of the horizontal axis and restrict its ticks to integers."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# ---------------------------------------------------------------------- diagnostics over epochs


@matplotlib.rc_context(STYLE)
def draw_diagnostics(by_epoch: Any, folder: Path) -> list[Path]:
    """Draw `diagnostics.pdf`, `.png` and `.svg`: the mean over seeds of each arm.

    The title states how many of the trials with a committed epoch have diagnostics. Nothing is
    drawn if no trial has them. The axis counts epochs from 0, as `epochs.jsonl` does. The styles of
    `LINES` are repeated if there are more arms.
    """
    names = [name for name in DIAGNOSTICS if name in by_epoch and by_epoch[name].notna().any()]
    if not names:
        return []
    measured = by_epoch.dropna(subset=names, how="all")
    counts = [table["trial_key"].nunique() for table in (measured, by_epoch)]
    rows = math.ceil(len(names) / 3)
    figure, grid = panels((9.6, 2.6 * rows + 0.5), rows, 3, sharex=True)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        title, logarithmic = DIAGNOSTICS[name]
        styles = itertools.cycle(LINES)
        curves = mean_curves(measured, name).items()
        for (arm, table), (color, dashes) in zip(curves, styles, strict=False):
            axes.plot(table["mean"], color=color, linestyle=dashes, linewidth=1.2, label=arm)
        axes.set_title(title)
        if logarithmic:
            axes.set_yscale("log")
        _set_integer_axis(axes, "epoch (the first is 0)")
    legend(figure, grid[0, :1], 4)
    title = f"mean over seeds; {counts[0]} of {counts[1]} trials have diagnostics"
    if measured["arm"].nunique() > len(LINES):
        title += f"; the line styles repeat after {len(LINES)} arms"
    figure.suptitle(title, fontsize=9)
    return save(figure, folder, "diagnostics")


# ---------------------------------------------------------------------- the best score over a search's budget


@matplotlib.rc_context(STYLE)
def draw_best_of_k(curves: Mapping[str, pd.DataFrame], metric: str, folder: Path) -> list[Path]:
    """Draw `best_of_k.pdf`, `.png` and `.svg`: the `budgets.best_of_k` of each optimizer.

    `metric` is the metric that scores a configuration, such as `val/accuracy`.
    """
    if not curves:
        return []
    styles, show = lines(curves), unit(metric)
    figure, ((axes,),) = panels((4.8, 3.4))
    scaled = {
        name: curve.assign(
            **{column: show.scale * curve[column] for column in ("mean", "lo", "hi")}
        )
        for name, curve in curves.items()
    }
    for name, curve in scaled.items():
        color, dashes = styles[name]
        known = curve.dropna(subset=["mean"])
        k, mean, low, high = (known[column] for column in ("k", "mean", "lo", "hi"))
        axes.plot(k, mean, color=color, linestyle=dashes, linewidth=1.2, label=display(name))
        axes.fill_between(k, low, high, color=color, alpha=0.10, linewidth=0)
    # The range contains the means from k = 2 on. The mean at k = 1 can be so bad that the curves
    # would be indistinguishable.
    means = np.concatenate(
        [curve["mean"].to_numpy()[min(1, len(curve) - 1) :] for curve in scaled.values()]
    )
    if np.isfinite(means).any():
        low, high = (float(end(means[np.isfinite(means)])) for end in (np.min, np.max))
        smallest = FLAT * (100 if show.percent else max(abs(low), abs(high)) or 1)
        margin = 0.1 * max(high - low, smallest)
        axes.set_ylim(low - margin, high + margin)
    _set_integer_axis(axes, "number of configurations k")
    axes.set_ylabel(f"best validation {metric_name(metric)}{' (%)' if show.percent else ''}")
    legend(figure, [axes], 4)
    return save(figure, folder, "best_of_k")
