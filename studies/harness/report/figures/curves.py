"""Figures of curves: metrics and diagnostics over epochs, the best of k scores over k."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from precond.counts import counted
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import mean_curves
from studies.harness.evidence.metrics import higher_is_better, metric_name, unit, words
from studies.harness.report.figures import means
from studies.harness.report.figures.layout import legend
from studies.harness.report.figures.means import Curve
from studies.harness.report.figures.style import (
    STYLE,
    Style,
    display,
    entries,
    integer_axis,
    lines,
    lost_words,
    panels,
    save,
    write_decision,
)

# Smallest range of the vertical axis of the best of k: this fraction of 100% for metrics in percent,
# otherwise of the largest mean.
FLAT = 0.005
MOST = 14  # curves in a panel; more are divided into panels of at most `FEW`
FEW = 10
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

    There is one column for each metric that the trials have. The rows are the combinations of
    levels, each divided into as-released and corrected variants. An optimizer with only one variant
    is in both rows. A row with more than `MOST` curves is divided by the optimizers' final means.
    """
    completed = evidence.completed_epochs
    known: Any = completed
    metrics = [name for name in metrics if name in known and known[name].notna().any()]
    if not metrics:
        return []
    arms = completed.drop_duplicates("arm")
    tables = {metric: means.tables(completed, metric) for metric in metrics}
    order = _by_final_mean(arms, tables[metrics[0]], higher_is_better(metrics[0]))
    rows = [
        row
        for level, in_level in _by_level(arms, evidence.factors)
        for variant, in_variant in _by_variant(level, in_level)
        for row in _by_place(variant, in_variant, order)
    ]
    names = list(dict.fromkeys(evidence.by_epoch["optimizer"]))
    styles = dict(zip(names, lines(names), strict=True))
    size = (3.4 * len(metrics), 2.5 * len(rows) + 0.6)
    figure, grid = panels(size, len(rows), len(metrics), sharex="row", sharey="col")
    for axes, metric in zip(grid[0], metrics, strict=True):
        means.set_scale(axes, [*tables[metric].values()], higher_is_better(metric))
        axes.set_ylabel(unit(metric).axis)
    for cells, (title, part) in zip(grid, rows, strict=True):
        for axes, metric in zip(cells, metrics, strict=True):
            curves = [*_curves(part, tables[metric], styles)]
            means.draw_curves(axes, curves, higher_is_better(metric))
            axes.set_title(title)
            integer_axis(axes)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    handles = _handles(evidence, dict.fromkeys([*order, *names]), styles) | _marks(grid.flat)
    title = means.over_seeds(pd.concat(tables[metrics[0]])["n"])
    legend(figure, handles, 4, f"{title}; ordered by the final {words(metrics[0])}, best first")
    write_decision(figure, evidence.claims)
    return save(figure, folder, "curves")


def _curves(
    arms: Any, tables: Mapping[str, pd.DataFrame], styles: Mapping[str, Style]
) -> Iterator[Curve]:
    """Yield the curve of each arm over the epochs; the first epoch is 1."""
    for optimizer, arm in zip(arms["optimizer"], arms["arm"], strict=True):
        table = tables[arm]
        x = table.index.to_numpy() + 1
        yield Curve(display(optimizer), styles[optimizer], table, x)


def _by_final_mean(arms: Any, tables: Mapping[str, pd.DataFrame], higher: bool) -> list[str]:
    """Return the optimizers, sorted by the best final mean of their arms."""
    finals = arms.assign(final=[tables[arm]["mean"].iloc[-1] for arm in arms["arm"]])
    best = finals.groupby("optimizer", sort=False)["final"].agg("max" if higher else "min")
    return [*best.sort_values(ascending=not higher, kind="stable").index]


def _handles(
    evidence: Evidence, optimizers: Iterable[str], styles: Mapping[str, Style]
) -> dict[str, Any]:
    """Return an entry of the legend for each optimizer, with the trials that were lost."""
    handles: dict[str, Any] = {}
    rows = evidence.arms.to_dict("records")
    for name in optimizers:
        color, dashes = styles[name]
        lost = lost_words([arm for arm in rows if arm["optimizer"] == name])
        label = f"{display(name)} ({lost})" if lost else display(name)
        handles[label] = Line2D([], [], color=color, linestyle=dashes, linewidth=means.WIDTH)
    return handles


def _marks(panels: Iterable[Axes]) -> dict[str, Any]:
    """Return the entry of the legend for intervals beyond the axis, if there are any."""
    return {name: mark for name, mark in entries(panels).items() if name == means.BEYOND}


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


def _by_place(title: str, arms: Any, order: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the arms of a row, or parts of at most `FEW` optimizers if the row has too many.

    The parts have nearly equal sizes, and the first one has the best optimizers in `order`.
    """
    names = [name for name in order if name in set(arms["optimizer"])]
    if len(names) <= MOST:
        return [(title, arms)]
    size = math.ceil(len(names) / math.ceil(len(names) / FEW))
    rows = []
    for start in range(0, len(names), size):
        part = names[start : start + size]
        places = f"places {start + 1} to {start + len(part)}"
        rows.append((", ".join(filter(None, [title, places])), arms[arms["optimizer"].isin(part)]))
    return rows


# ---------------------------------------------------------------------- diagnostics over epochs


@matplotlib.rc_context(STYLE)
def draw_diagnostics(by_epoch: Any, folder: Path) -> list[Path]:
    """Draw `diagnostics.pdf`, `.png` and `.svg`: the mean over seeds of each arm.

    The title states how many of the trials with a committed epoch have diagnostics. Nothing is
    drawn if no trial has them. The first epoch is 1.
    """
    names = [name for name in DIAGNOSTICS if name in by_epoch and by_epoch[name].notna().any()]
    if not names:
        return []
    measured = by_epoch.dropna(subset=names, how="all")
    counts = [table["trial_key"].nunique() for table in (measured, by_epoch)]
    arms = measured.drop_duplicates("arm")
    styles = dict(zip(arms["arm"], lines(arms["optimizer"]), strict=True))
    rows = math.ceil(len(names) / 3)
    figure, grid = panels((9.6, 2.6 * rows + 0.5), rows, 3, sharex=True)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        title, logarithmic = DIAGNOSTICS[name]
        for arm, table in mean_curves(measured, name).items():
            color, dashes = styles[arm]
            look = {"color": color, "linestyle": dashes, "linewidth": means.WIDTH}
            means.draw_line(axes, table.index + 1, table["mean"], label=arm, **look)
        axes.set_title(title)
        if logarithmic:
            axes.set_yscale("log")
        integer_axis(axes)
        axes.set_xlabel("epoch")
    legend(figure, entries(grid[0, :1]), 4)
    title = f"mean over seeds; {counts[0]} of {counted(counts[1], 'trial')} with diagnostics"
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
    styles, show = dict(zip(curves, lines(curves), strict=True)), unit(metric)
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
        look = {"color": color, "linestyle": dashes, "linewidth": means.WIDTH}
        means.draw_line(axes, k, mean, label=display(name), **look)
        axes.fill_between(k, low, high, color=color, alpha=0.10, linewidth=0)
    # The range contains the means from k = 2 on. The mean at k = 1 can be so bad that the curves
    # would be indistinguishable.
    scores = np.concatenate(
        [curve["mean"].to_numpy()[min(1, len(curve) - 1) :] for curve in scaled.values()]
    )
    if np.isfinite(scores).any():
        low, high = (float(end(scores[np.isfinite(scores)])) for end in (np.min, np.max))
        smallest = FLAT * (100 if show.percent else max(abs(low), abs(high)) or 1)
        margin = 0.1 * max(high - low, smallest)
        axes.set_ylim(low - margin, high + margin)
    integer_axis(axes)
    axes.set_xlabel("number of configurations k")
    axes.set_ylabel(f"best validation {metric_name(metric)}{' (%)' if show.percent else ''}")
    legend(figure, entries([axes]), 4)
    return save(figure, folder, "best_of_k")
