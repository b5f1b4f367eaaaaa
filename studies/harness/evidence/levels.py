"""The verdict on the levels of a factor: equivalent, best at an edge or inside, inconclusive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

import precond
from studies.harness.evidence.ledger import factors
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.evidence.status import LOST
from studies.harness.statistics.paired import ALPHA, SAME, equivalence_p, holm, paired_p
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
        levels: The levels with at least two completed trials, in order.
        best: The level with the best mean; None if there are fewer than two levels.
        tied: The best level and the levels that are not significantly different from it (paired
            t-tests, Holm-corrected over the pairs of these levels).
        verdict: EQUIVALENT if every pair of levels is equal within `SAME` (two one-sided tests at
            5% each; only for metrics in percent). Otherwise, for a grid of three or more numbers,
            EDGE if the best level is its first or last one and no inner level is tied with it, and
            INSIDE if neither end is tied with the best level. INCONCLUSIVE in all other cases.
        suggestion: A level that continues the grid beyond the edge, if the optimizer allows it.
        as_released: True for the levels of the as-released variant.
        lost: Levels with trials that ended without a result, such as `10.0 (3 of 3)`. These levels
            count when the ends of the grid are determined.
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


def level_verdicts(frame: pd.DataFrame, values: pd.DataFrame, metric: str) -> list[LevelVerdict]:
    """Return a verdict for each optimizer, variant, factor and combination of the other levels."""
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
                verdict = _judge(table, (first["optimizer"], factor, setting), metric)
                verdicts.append(
                    replace(
                        verdict, as_released=bool(first["as_released"]), lost=_lost(part, factor)
                    )
                )
    return verdicts


def _judge(table: pd.DataFrame, identity: tuple[str, str, str], metric: str) -> LevelVerdict:
    """Return the verdict on a table of values by seed with a column for each level."""
    optimizer, factor, _ = identity
    grid = sorted_levels(table.columns)
    table = table[grid].loc[:, table[grid].notna().sum() >= 2]
    levels = tuple(table.columns)
    if len(levels) < 2:
        return LevelVerdict(*identity, levels, None, (), INCONCLUSIVE)
    sample, means = table.to_numpy(), table.mean().to_numpy()
    best = int(np.argmax(means) if higher_is_better(metric) else np.argmin(means))
    first, second = np.triu_indices(len(levels), 1)
    differences = (sample[:, first] - sample[:, second]).T
    distinguishable = holm(paired_p(differences)) <= ALPHA
    worse = {
        *first[distinguishable & (second == best)],
        *second[distinguishable & (first == best)],
    }
    tied = tuple(level for i, level in enumerate(levels) if i not in worse)
    inconclusive = LevelVerdict(*identity, levels, levels[best], tied, INCONCLUSIVE)
    if unit(metric).percent and (equivalence_p(differences, SAME) <= ALPHA).all():
        return replace(inconclusive, verdict=EQUIVALENT)
    if not are_numbers(grid) or len(levels) < 3:
        return inconclusive
    # `grid` includes the levels without results: the best level is not at the edge of the grid if
    # the trials at the next level diverged.
    ends = {grid[0], grid[-1]}
    inner = set(levels) - ends
    if levels[best] in ends and not inner & set(tied):
        beyond = next_level(levels, levels[best], lambda level: _allowed(optimizer, factor, level))
        return replace(inconclusive, verdict=EDGE, suggestion=beyond)
    return inconclusive if ends & set(tied) else replace(inconclusive, verdict=INSIDE)


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
