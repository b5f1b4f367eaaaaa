"""The interaction of two factors: whether the effect of one depends on the level of the other.

The additive model has an effect of each level of both factors, and the full model has a mean of
each pair of levels. Both have an effect of each seed, because the trials of a seed share their
noise. An F-test compares the two models. It assumes that the noise of all trials has the same
variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from studies.harness.evidence.levels import sorted_levels
from studies.harness.statistics.paired import ROUNDING


@dataclass(frozen=True, eq=False)
class Cells:
    """The arms of an optimizer by the levels of two factors.

    Attributes:
        optimizer: Name of the registered optimizer.
        setting: The variant and the levels of all other factors, such as `as-released, rank=5`.
        factors: The names of the two factors.
        levels: The levels of each factor.
        arms: The rows of `Evidence.arms` by the indices of the two levels. A pair of levels
            without an arm is absent.
    """

    optimizer: str
    setting: str
    factors: tuple[str, str]
    levels: tuple[list[Any], list[Any]]
    arms: dict[tuple[int, int], Any]

    @property
    def labels(self) -> np.ndarray:
        """The labels of the arms `[first, second]`; empty texts without an arm."""
        shape = len(self.levels[0]), len(self.levels[1])
        labels = np.full(shape, "", dtype=object)
        for place, arm in self.arms.items():
            labels[place] = arm["arm"]
        return labels


@dataclass(frozen=True, eq=False)
class Interaction:
    """The comparison of the additive and the full model.

    Attributes:
        n: Number of seeds with a result at every pair of levels; the other seeds are not used.
        departures: The mean at each pair of levels minus that of the additive model
            `[first, second]`; nan without a test.
        f: The F statistic; nan if there is no test.
        df: Its degrees of freedom.
        p: Its p-value.
    """

    n: int
    departures: np.ndarray
    f: float = math.nan
    df: tuple[int, int] = (0, 0)
    p: float = math.nan


def cells(arms: pd.DataFrame, factors: tuple[str, str], names: Sequence[str]) -> list[Cells]:
    """Return the arms of each optimizer, variant and combination of the other factors' levels.

    Args:
        arms: The table `Evidence.arms`.
        factors: The two factors. Arms without one of them are omitted.
        names: All factors.
    """
    first, second = factors
    if not {first, second} <= set(arms.columns):
        return []
    groups: dict[tuple[str, str], list[Any]] = {}
    for arm in arms.dropna(subset=[first, second]).to_dict("records"):
        others = [f"{name}={arm[name]}" for name in names if name not in factors]
        others = [text for text in others if not text.endswith("=<NA>")]
        setting = ", ".join([*(["as-released"] if arm["as_released"] else []), *others])
        groups.setdefault((arm["optimizer"], setting), []).append(arm)
    parts = []
    for (optimizer, setting), members in groups.items():
        levels = tuple(sorted_levels(arm[name] for arm in members) for name in factors)
        placed = {
            (levels[0].index(arm[first]), levels[1].index(arm[second])): arm for arm in members
        }
        parts.append(Cells(optimizer, setting, factors, (levels[0], levels[1]), placed))
    return parts


def interaction(values: np.ndarray) -> Interaction:
    """Compare the additive and the full model of values `[seeds, first, second]`.

    nan and infinite values are missing. There is no test if a factor has fewer than two levels, or
    if fewer than two seeds are complete.
    """
    complete = values[np.isfinite(values).all(axis=(1, 2))]
    n, rows, columns = complete.shape
    absent = np.full((rows, columns), np.nan)
    if n < 2 or rows < 2 or columns < 2:
        return Interaction(n, absent)
    means, total = complete.mean(axis=0), complete.mean()
    by_row, by_column = means.mean(axis=1, keepdims=True), means.mean(axis=0, keepdims=True)
    departures = means - by_row - by_column + total
    noise = complete - complete.mean(axis=(1, 2), keepdims=True) - means + total
    df = (rows - 1) * (columns - 1), (n - 1) * (rows * columns - 1)
    smallest = (ROUNDING * np.abs(complete).max()) ** 2  # equal seeds have no noise
    residual = max(float((noise**2).sum()) / df[1], smallest)
    explained = n * float((departures**2).sum()) / df[0]
    if explained <= smallest:
        departures, explained = np.zeros_like(departures), 0.0
    f = explained / residual if residual else 0.0
    return Interaction(n, departures, f, df, float(stats.f.sf(f, *df)))
