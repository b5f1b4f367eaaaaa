"""The gains that decide a claim, by seed.

A gain is the difference of an arm from its base, positive if the arm is better. Errors, times and
other values of which smaller ones are better are compared by their ratios if all values of the
claim's arms are positive: their gain is log(base / arm). The noise of such values is usually proportional
to their size, so that the ratios vary less over seeds than the differences. A gain is nan if a seed
does not have a result of both arms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from studies.harness.design.claims import Change, Claim, Side
from studies.harness.evidence.metrics import higher_is_better, unit
from studies.harness.statistics.intervals import half_width
from studies.harness.statistics.paired import MeanTest


class Table(NamedTuple):
    """The values that decide a claim.

    Attributes:
        values: A table of `arms.by_seed`: one row per seed, one column per arm. nan is a trial
            without a result yet; a failed trial has the worst possible infinite value.
        metric: The metric of the values.
        step: The distance of two neighbouring values of the metric; 0 if it is continuous.
    """

    values: pd.DataFrame
    metric: str
    step: float = 0.0

    @property
    def has_ratios(self) -> bool:
        """True if the values are compared by their ratios."""
        return has_ratios(self.values.to_numpy(dtype=float), self.metric)

    def only(self, sides: Iterable[Side]) -> Table:
        """Return the values of the arms of some sides."""
        labels = (
            label for side in sides for label in (side if isinstance(side, Change) else [side])
        )
        return self._replace(values=self.values[[*dict.fromkeys(labels)]])


def has_ratios(values: np.ndarray, metric: str) -> bool:
    """Return True if smaller values are better and all finite values are positive.

    Such values are compared by their ratios.
    """
    return not higher_is_better(metric) and bool((values[np.isfinite(values)] > 0).all())


def oriented(values: np.ndarray, metric: str) -> np.ndarray:
    """Return values of which larger ones are better.

    These are the values themselves if larger ones are better. Otherwise they are the negative
    logarithms or, if `has_ratios` is False, the negative values.
    """
    if higher_is_better(metric):
        return values
    return -np.log(values) if has_ratios(values, metric) else -values


def values_of(table: Table, side: Side) -> np.ndarray:
    """Return the values `[seeds]` of one side of a pair, transformed by `oriented`.

    The value of a `Change` is the difference of its two arms. The change from one failed trial to
    another is unknown, so it is nan.
    """
    if isinstance(side, Change):
        arm, base = values_of(table, side.arm), values_of(table, side.base)
        return np.where(np.isinf(arm) & np.isinf(base), np.nan, subtract(arm, base))
    values = table.values.to_numpy(dtype=float)
    return oriented(values, table.metric)[:, table.values.columns.get_loc(side)]


def margins_of(claim: Claim, table: Table, base: Side) -> np.ndarray:
    """Return the margin for each seed `[seeds]`; 0 for a claim without a margin.

    A margin of 5% is log(1.05) for values that are compared by their ratios. Otherwise it is a
    share of the base's value under the same seed, so that the test includes the uncertainty of the
    base. It is then 0 for a failed base, because no margin changes the worst result.
    """
    if not (claim.LOWER or claim.UPPER):
        return np.zeros(len(table.values))
    if table.has_ratios:
        return np.full(len(table.values), math.log1p(claim.share))
    if unit(table.metric).percent:
        return np.full(len(table.values), claim.points)
    size = np.abs(values_of(table, base.base if isinstance(base, Change) else base))
    return claim.share * np.where(np.isinf(size), 0.0, size)


def mean_margin(margins: np.ndarray) -> float:
    """Return the mean margin over the seeds; nan if no seed has a margin."""
    return float(np.nanmean(margins)) if np.isfinite(margins).any() else math.nan


def operands(
    claim: Claim, arm: np.ndarray, base: np.ndarray, margin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return two operands `[tests, seeds]`: the claim holds if the first one is greater."""
    first, second = [], []
    if claim.LOWER is not None:
        first.append(arm - claim.LOWER * margin)
        second.append(base)
    if claim.UPPER is not None:
        first.append(base + claim.UPPER * margin)
        second.append(arm)
    return np.concatenate(first), np.concatenate(second)


def subtract(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return first - second; 0 for two failures, which are equally bad."""
    with np.errstate(invalid="ignore"):
        return np.where(first == second, 0.0, first - second)


def effects_of(test: MeanTest) -> np.ndarray:
    """Return mean / SD of a test; the SD has the lower limit that `mean_test` describes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return test.mean * half_width(test.n, 1.0) * 2 / (test.ci_hi - test.ci_lo)


def margin_words(claim: Claim, table: Table) -> str:
    """Return a margin in words.

    Examples are `0.30 percentage points`, `5%` for a ratio, and `5% of the mean of sgd`.
    """
    if table.has_ratios:
        return f"{100 * claim.share:g}%"
    show = unit(table.metric)
    if show.percent:
        return f"{show.show(claim.points)} {show.difference}"
    base = claim.base.base if isinstance(claim.base, Change) else claim.base
    return f"{100 * claim.share:g}% of the mean{f' of {base}' if base else ''}"
