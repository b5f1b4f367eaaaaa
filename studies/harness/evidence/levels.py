"""The verdict on one factor's levels: flat within noise, the best level at the edge of the grid, or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

import precond
from studies.harness.evidence.ledger import factors
from studies.harness.evidence.metrics import higher_is_better
from studies.harness.evidence.status import LOST
from studies.harness.statistics.paired import ALPHA, SAME, equivalence_p, holm, paired_p
from trainables.workloads import RECIPE_SETTINGS

FLAT, EDGE, INSIDE, UNDECIDED = (
    "flat within noise",
    "at the edge of the grid",
    "inside the grid",
    "undecided",
)


@dataclass(frozen=True)
class LevelVerdict:
    """The verdict on one optimizer's levels of one factor.

    Attributes:
        optimizer: Registered name.
        factor: The hyperparameter.
        setting: The other factors' levels, as `shift=tropp`; empty without other factors.
        levels: Its levels with two or more completed trials, in order.
        best: The level with the best mean; None below two levels.
        tied: Levels not significantly different from the best one (paired test, Holm over the pairs of these levels).
        verdict: FLAT if every pair of levels is equal within `SAME` (two one-sided tests at 5% each); otherwise EDGE
            if the best level is the first or last of an ordered grid and no inner level ties with it, INSIDE if no
            end ties with it; UNDECIDED for the rest.
        suggestion: A next level beyond the edge, if the optimizer allows one.
        as_released: True for the levels of the as-released variant.
        lost: Levels at which trials diverged or failed, as `10.0 (3 of 3)`; such a level continues the grid.
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
    """Return a verdict for each optimizer and factor, and for each combination of the other factors' levels."""
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
        return LevelVerdict(*identity, levels, None, (), UNDECIDED)
    sample, means = table.to_numpy(), table.mean().to_numpy()
    best = int(np.argmax(means) if higher_is_better(metric) else np.argmin(means))
    first, second = np.triu_indices(len(levels), 1)
    differences = (sample[:, first] - sample[:, second]).T
    distinguishable = holm(paired_p(differences)) <= ALPHA
    beaten = {
        *first[distinguishable & (second == best)],
        *second[distinguishable & (first == best)],
    }
    tied = tuple(level for i, level in enumerate(levels) if i not in beaten)
    undecided = LevelVerdict(*identity, levels, levels[best], tied, UNDECIDED)
    if higher_is_better(metric) and (equivalence_p(differences, SAME) <= ALPHA).all():
        return replace(undecided, verdict=FLAT)
    if not are_numbers(grid) or len(levels) < 3:
        return undecided
    ends = {
        grid[0],
        grid[-1],
    }  # of the whole grid: a level that diverges lies beyond those that do not
    inner = set(levels) - ends
    if levels[best] in ends and not inner & set(tied):
        beyond = next_level(levels, levels[best], lambda level: _allowed(optimizer, factor, level))
        return replace(undecided, verdict=EDGE, suggestion=beyond)
    return undecided if ends & set(tied) else replace(undecided, verdict=INSIDE)


def next_level(levels: Sequence[Any], edge: Any, allowed: Callable[[Any], bool]) -> Any:
    """Return the level that continues a grid beyond one end: by ratio if the grid spans 8 or more, else by step.

    Args:
        levels: Ascending numbers, at least two.
        edge: The first or the last of them.
        allowed: Returns True if a value may be used.

    Returns:
        An integer in a grid of integers, otherwise rounded to two digits; None if the value is not allowed.
    """
    inner = levels[1] if edge == levels[0] else levels[-2]
    by_ratio = levels[0] > 0 and levels[-1] / levels[0] >= 8
    value = edge * (edge / inner) if by_ratio else edge + (edge - inner)
    value = (
        round(value) if all(isinstance(level, int) for level in levels) else float(f"{value:.2g}")
    )
    return value if value != edge and allowed(value) else None


def sorted_levels(levels: Iterable[Any]) -> list[Any]:
    """Return the distinct levels, in numerical order if all are numbers, otherwise as they come."""
    distinct = list(dict.fromkeys(map(_plain, levels)))
    return sorted(distinct) if are_numbers(distinct) else distinct


def _lost(part: pd.DataFrame, factor: str) -> tuple[str, ...]:
    """Return the levels with trials that have ended without a result."""
    ended = {
        level: part.loc[part[factor] == level, "status"].isin(LOST)
        for level in sorted_levels(part[factor])
    }
    return tuple(
        f"{level} ({lost.sum()} of {len(lost)})" for level, lost in ended.items() if lost.any()
    )


def _allowed(optimizer: str, factor: str, level: Any) -> bool:
    """Return True if a level may be proposed; the data decide which batch sizes are possible."""
    return level > 0 if factor in RECIPE_SETTINGS else not precond.check(optimizer, {factor: level})


def _plain(level: Any) -> Any:
    """Return a level as a number of Python: numpy's are not printed as a user writes them."""
    return level.item() if isinstance(level, np.generic) else level


def are_numbers(levels: Iterable[Any]) -> bool:
    """Return True if all levels are numbers, and so in an order."""
    return all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
