"""The verdict on the levels of a factor: equivalent, best at an edge or inside, inconclusive.

Levels are compared by the differences of their values under each seed, also for errors. A trial
that ended without a result counts as the worst of its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

import precond
from studies.harness.design.claims import POINTS, SHARE
from studies.harness.evidence.arms import finite
from studies.harness.evidence.contrasts import contrasts
from studies.harness.evidence.ledger import factors
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.evidence.status import LOST
from studies.harness.statistics.paired import ALPHA, mean_test
from trainables.workloads import RECIPE_SETTINGS

EQUIVALENT = "equivalent"
EDGE = "best at the edge of the grid"
INSIDE = "best inside the grid"
INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class LevelVerdict:
    """The verdict on one optimizer's levels of one factor.

    Attributes:
        optimizer: Name of the registered optimizer.
        factor: Name of the hyperparameter or of the setting of the recipe.
        setting: The levels of the other factors, such as `shift=tropp`; empty without other factors.
        levels: The levels with at least two trials that have ended, in order.
        best: The `best_level`; None if there are fewer than two levels, or if no trial completed.
        tied: The best level and the levels that are not significantly worse (paired tests,
            corrected over the pairs of these levels).
        verdict: EQUIVALENT if every pair of levels is equal within the `margin` (two one-sided tests
            at 5% each). Otherwise, for a grid of three or more numbers, EDGE if the best level is
            its first or last one and no inner level is tied with it, and INSIDE if neither end is
            tied with the best level. INCONCLUSIVE in all other cases.
        suggestion: A level that continues the grid beyond the edge, if the optimizer allows it.
        as_released: True for the levels of the as-released variant.
        lost: Levels with trials that ended without a result, such as `10.0 (3 of 3)`.
        unstable: Levels that have a better mean over completed trials than the best level.
    """

    optimizer: str
    factor: str
    setting: str
    levels: tuple[Any, ...]
    best: Any
    tied: tuple[Any, ...]
    verdict: str
    suggestion: Any = None
    as_released: bool = False
    lost: tuple[str, ...] = ()
    unstable: tuple[Any, ...] = ()


def level_verdicts(
    frame: pd.DataFrame, values: pd.DataFrame, metric: str, step: float = 0.0
) -> list[LevelVerdict]:
    """Return a verdict for each optimizer, variant, factor and combination of the other levels.

    Args:
        frame: The table `ledger.frame(..., per="trial")`.
        values: The table `arms.by_seed`.
        metric: The metric.
        step: The grid of the metric (`metrics.step`).
    """
    verdicts, names = [], factors(frame)
    for factor in names:
        rest = [name for name in names if name != factor]
        varied = frame.loc[frame[factor].notna()]
        for _, part in varied.groupby(
            ["optimizer", "as_released", *rest], sort=False, dropna=False
        ):
            first = part.iloc[0].to_dict()
            setting = ", ".join(
                f"{name}={_plain(first[name])}" for name in rest if not pd.isna(first[name])
            )
            if len(set(part[factor])) > 1:
                levels = dict(zip(part["arm"], map(_plain, part[factor]), strict=True))
                table: Any = values[[*levels]].set_axis(list(levels.values()), axis="columns")
                verdict = _judge(table, (first["optimizer"], factor, setting), metric, step)
                verdicts.append(
                    replace(
                        verdict, as_released=bool(first["as_released"]), lost=_lost(part, factor)
                    )
                )
    return verdicts


def _judge(
    table: pd.DataFrame, identity: tuple[str, str, str], metric: str, step: float
) -> LevelVerdict:
    """Return the verdict on a table of values by seed with a column for each level."""
    grid = sorted_levels(table.columns)
    table = table[grid].loc[:, table[grid].notna().sum() >= 2]
    levels = tuple(table.columns)
    best = best_level(table, metric) if len(levels) > 1 else None
    if best is None:
        return LevelVerdict(*identity, levels, None, (), INCONCLUSIVE)
    pairs = contrasts(table, metric, step)
    beaten = pairs.loc[(pairs["p_adjusted"] <= ALPHA) & (pairs["leader"] == best)]
    worse = {*beaten["arm"], *beaten["other"]} - {best}
    means = finite(table).mean()
    ahead = means > means[best] if higher_is_better(metric) else means < means[best]
    verdict = LevelVerdict(
        *identity,
        levels,
        best,
        tuple(level for level in levels if level not in worse),
        INCONCLUSIVE,
        unstable=tuple(table.columns[ahead]),
    )
    return (
        replace(verdict, verdict=EQUIVALENT)
        if equal(table, metric, step)
        else _place(verdict, grid)
    )


def best_level(table: pd.DataFrame, metric: str) -> Any:
    """Return the best level of a table of values by seed, or None if no trial completed.

    If every trial completed, it is the level with the best mean. The mean of a level with lost
    trials (those that ended without a result) is too good if the trials of the hardest seeds were
    lost. Such a level can therefore only be the best if it is better than each other level on more
    seeds than it is worse, where a lost trial is the worst. Among the other levels and those that
    fulfil this condition, the level with the best mean over completed trials is the best. If there
    are none, it is the level that is better than the other levels most often.
    """
    higher = higher_is_better(metric)
    sample = table.to_numpy() if higher else -table.to_numpy()
    ahead = (sample[:, :, None] > sample[:, None, :]).sum(axis=0)  # [levels, levels]
    lead = ahead - ahead.T
    means = np.nan_to_num(finite(table).mean().to_numpy() * (1 if higher else -1), nan=-np.inf)
    if not np.isfinite(means).any():
        return None
    eligible = ~np.isinf(sample).any(axis=0) | (lead + np.eye(len(lead)) > 0).all(axis=1)
    rank = eligible if eligible.any() else lead.sum(axis=1)
    return table.columns[max(range(len(means)), key=lambda i: (rank[i], means[i]))]


def equal(table: pd.DataFrame, metric: str, step: float = 0.0) -> bool:
    """Return True if every pair of levels is equal within the `margin` of the metric.

    Each pair passes two one-sided paired t-tests at 5%. A relative margin is a share of the smaller
    of the two values of a seed, so that the tests include the uncertainty of the margin.

    Args:
        table: The values by seed with a column for each level.
        metric: The metric.
        step: The grid of the metric (`metrics.step`).
    """
    sample = table.to_numpy()
    if np.isinf(sample).any():
        return False
    first, second = (sample[:, i].T for i in np.triu_indices(sample.shape[1], 1))
    width = POINTS if unit(metric).percent else SHARE * np.minimum(abs(first), abs(second))
    sides = [mean_test(width + sign * (first - second), step).p_greater for sign in (1, -1)]
    return bool((np.stack(sides) <= ALPHA).all())


def margin(metric: str) -> str:
    """Return the margin within which levels are equal, such as `0.3 percentage points`."""
    show = unit(metric)
    return (
        f"{100 * POINTS:g} {show.difference}"
        if show.percent
        else f"{SHARE:.0%} of the smaller result of each seed"
    )


def _place(verdict: LevelVerdict, grid: Sequence[Any]) -> LevelVerdict:
    """Return a verdict on the place of the best level in the grid.

    `grid` includes the levels without results: the best level is not at the edge of the grid if
    the trials at the next level were lost.
    """
    levels, tied, best = verdict.levels, {*verdict.tied}, verdict.best
    if not are_numbers(grid) or len(levels) < 3:
        return verdict
    ends = {grid[0], grid[-1]}
    inner = set(levels) - ends
    if best in ends and not inner & tied:
        allowed = partial(_allowed, verdict.optimizer, verdict.factor)
        return replace(verdict, verdict=EDGE, suggestion=next_level(levels, best, allowed))
    return verdict if ends & tied else replace(verdict, verdict=INSIDE)


def next_level(levels: Sequence[Any], edge: Any, allowed: Callable[[Any], bool]) -> Any:
    """Return the level that continues a grid beyond one end.

    The level continues the ratio of the last two levels if the largest level is at least 8 times the
    smallest one, and their difference otherwise.

    Args:
        levels: At least two numbers in ascending order.
        edge: The first or the last of them.
        allowed: Returns True if a value may be used.

    Returns:
        An integer for a grid of integers, otherwise a number rounded to two significant digits;
        None if the value is not allowed.
    """
    inner = levels[1] if edge == levels[0] else levels[-2]
    by_ratio = levels[0] > 0 and levels[-1] / levels[0] >= 8
    value = edge * (edge / inner) if by_ratio else edge + (edge - inner)
    integers = all(isinstance(level, int) for level in levels)
    value = round(value) if integers else float(f"{value:.2g}")
    return value if value != edge and allowed(value) else None


def sorted_levels(levels: Iterable[Any]) -> list[Any]:
    """Return the distinct levels, sorted if all are numbers, otherwise in the given order."""
    distinct = list(dict.fromkeys(map(_plain, levels)))
    return sorted(distinct) if are_numbers(distinct) else distinct


def _lost(part: pd.DataFrame, factor: str) -> tuple[str, ...]:
    """Return the levels with trials that ended without a result, with their number."""
    ended = {
        level: part.loc[part[factor] == level, "status"].isin(LOST)
        for level in sorted_levels(part[factor])
    }
    return tuple(
        f"{level} ({lost.sum()} of {len(lost)})" for level, lost in ended.items() if lost.any()
    )


def _allowed(optimizer: str, factor: str, level: Any) -> bool:
    """Return True if a level is valid for an optimizer; a setting of the recipe must be positive."""
    return level > 0 if factor in RECIPE_SETTINGS else not precond.check(optimizer, {factor: level})


def _plain(level: Any) -> Any:
    """Return a NumPy scalar as a Python number, which is printed as the user writes it."""
    return level.item() if isinstance(level, np.generic) else level


def are_numbers(levels: Iterable[Any]) -> bool:
    """Return True if all levels are numbers."""
    return all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
