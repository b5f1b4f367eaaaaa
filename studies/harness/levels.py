"""What an ablation says about one factor: flat within noise, the best level at the edge of the grid, or neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import precond
from studies.harness.contrasts import ALPHA, SAME, by_seed, equivalence_p, higher_is_better, holm, paired_p
from studies.harness.ledger import factors

FLAT, EDGE, INSIDE, UNDECIDED = "flat within noise", "at the edge of the grid", "inside the grid", "undecided"


@dataclass(frozen=True)
class LevelVerdict:
    """What one optimizer's levels of one factor say.

    Attributes:
        optimizer: Registered name.
        factor: The hyperparameter.
        setting: The other factors' levels, as `shift=tropp`; empty without other factors.
        levels: Its levels with two or more completed trials, in order.
        best: The level with the best mean; None below two levels.
        tied: Levels that the paired test does not tell from the best one (Holm over the pairs of these levels).
        verdict: FLAT when every pair of levels is equal within `SAME` (two one-sided tests at 5% each); otherwise EDGE
            when the best level is the first or last of an ordered grid and no inner level ties with it, INSIDE when no
            end ties with it; UNDECIDED for the rest.
        suggestion: A next level beyond the edge, when the optimizer allows one.
    """

    optimizer: str
    factor: str
    setting: str
    levels: tuple[Any, ...]
    best: Any
    tied: tuple[Any, ...]
    verdict: str
    suggestion: Any = None


def level_verdicts(frame: pd.DataFrame, metric: str) -> list[LevelVerdict]:
    """One verdict for each optimizer and factor, and for each combination of the other factors' levels.

    Args:
        frame: `ledger.frame(..., per="trial")`.
        metric: What is judged.
    """
    verdicts, names = [], factors(frame)
    for factor in names:
        others = ["optimizer", *(name for name in names if name != factor)]
        varied = frame.loc[frame[factor].notna()]
        for _, part in varied.groupby(others, sort=False, dropna=False):
            first = part.iloc[0].to_dict()
            setting = ", ".join(f"{name}={_plain(first[name])}" for name in others[1:] if not pd.isna(first[name]))
            if len(set(part[factor])) > 1:
                verdicts.append(_judge(part, (first["optimizer"], factor, setting), metric))
    return verdicts


def _judge(part: pd.DataFrame, identity: tuple[str, str, str], metric: str) -> LevelVerdict:
    optimizer, factor, _ = identity
    table = by_seed(part.assign(arm=part[factor].map(_plain)), metric)
    table = table.loc[:, table.notna().sum() >= 2]
    ordered = all(_is_number(level) for level in table.columns)
    table = table[sorted(table.columns)] if ordered else table
    levels = tuple(table.columns)
    if len(levels) < 2:
        return LevelVerdict(*identity, levels, None, (), UNDECIDED)
    values, means = table.to_numpy(), table.mean().to_numpy()
    best = int(np.argmax(means) if higher_is_better(metric) else np.argmin(means))
    first, second = np.triu_indices(len(levels), 1)
    differences = (values[:, first] - values[:, second]).T
    apart = holm(paired_p(differences)) <= ALPHA
    tied = tuple(
        level
        for i, level in enumerate(levels)
        if not any(far and {i, best} == {a, b} for a, b, far in zip(first, second, apart, strict=True))
    )
    if "accuracy" in metric and (equivalence_p(differences, SAME) <= ALPHA).all():
        return LevelVerdict(*identity, levels, levels[best], tied, FLAT)
    if not ordered or len(levels) < 3:
        return LevelVerdict(*identity, levels, levels[best], tied, UNDECIDED)
    ends, inner = {levels[0], levels[-1]}, set(levels[1:-1])
    if levels[best] in ends and not inner & set(tied):
        beyond = next_level(levels, levels[best], lambda level: not precond.check(optimizer, {factor: level}))
        return LevelVerdict(*identity, levels, levels[best], tied, EDGE, beyond)
    verdict = INSIDE if not ends & set(tied) else UNDECIDED
    return LevelVerdict(*identity, levels, levels[best], tied, verdict)


def next_level(levels: Sequence[Any], edge: Any, allowed: Callable[[Any], bool]) -> Any:
    """The level that continues a grid beyond one end: by ratio where the grid spans 8 or more, else by step.

    Args:
        levels: Ascending numbers, at least two.
        edge: The first or the last of them.
        allowed: Whether a value may be used.

    Returns:
        An integer in a grid of integers, otherwise rounded to two digits; None when the value is not allowed.
    """
    inner = levels[1] if edge == levels[0] else levels[-2]
    by_ratio = levels[0] > 0 and levels[-1] / levels[0] >= 8
    value = edge * (edge / inner) if by_ratio else edge + (edge - inner)
    value = round(value) if all(isinstance(level, int) for level in levels) else float(f"{value:.2g}")
    return value if value != edge and allowed(value) else None


def _plain(level: Any) -> Any:
    """A level as Python's own number: numpy's are not printed as a user writes them."""
    return level.item() if isinstance(level, np.generic) else level


def _is_number(level: Any) -> bool:
    return isinstance(level, int | float) and not isinstance(level, bool)
