"""How values are printed: a metric's unit and name, numbers, p-values, durations; and which values are better.

A metric's name decides: with `accuracy` in its name it is a fraction, and larger values are better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

FEW = 5


def higher_is_better(metric: str) -> bool:
    """Return True if larger values are better: accuracies, but not losses, seconds or bytes."""
    return "accuracy" in metric


def words(metric: str) -> str:
    """Return a metric's name in sentences: `test accuracy`."""
    return metric.replace("/", " ")


class Unit(NamedTuple):
    """How a metric is printed.

    Attributes:
        scale: Factor for its values.
        decimals: Digits after the point; None for four significant ones.
        mean: Header of a column of means.
        difference: The unit of a difference.
        axis: Label of an axis.
    """

    scale: float
    decimals: int | None
    mean: str
    difference: str
    axis: str

    def show(self, value: float, signed: bool = False) -> str:
        """Return a value as text, with its sign if it is a difference."""
        kind = "#.4g" if self.decimals is None else f".{self.decimals}f"
        return number(self.scale * value, f"{'+' if signed else ''}{kind}")

    def interval(self, lo: float, hi: float, signed: bool = False) -> str:
        """Return both ends in brackets, or a dash without an interval."""
        return "-" if math.isnan(lo) else f"[{self.show(lo, signed)}, {self.show(hi, signed)}]"


def unit(metric: str) -> Unit:
    """Return the unit of a metric: percent for accuracies, otherwise the value itself."""
    name = words(metric)
    percent = Unit(100, 2, "mean %", "points", f"{name} (%)")
    return percent if "accuracy" in metric else Unit(1, None, "mean", name, name)


def number(value: float, kind: str) -> str:
    """Return a value in one of Python's formats: a zero without a sign, nan as a dash."""
    if math.isnan(value):
        return "-"
    text = format(value, kind)
    return text if float(text.rstrip("%")) else text.lstrip("+-")


def few(names: Sequence[str]) -> str:
    """Return names, or how many there are if there are many."""
    return ", ".join(names) if len(names) <= FEW else f"{len(names)} arms"


def probability(p: float) -> str:
    """Return a p-value as text; never 0."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Return `40 s`, `12 min` or `3.4 hours`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
