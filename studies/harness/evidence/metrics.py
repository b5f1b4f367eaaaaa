"""What a metric's name says of its values: which is better, in what unit they are printed, what they are called.

The names decide it: a metric with `accuracy` in its name is a fraction of which larger values are better.
"""

from __future__ import annotations

import math
from typing import NamedTuple


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
    return (
        Unit(100, 2, "mean %", "points", f"{name} (%)") if "accuracy" in metric else Unit(1, None, "mean", name, name)
    )


def number(value: float, kind: str) -> str:
    """Return a value in one of Python's formats: a zero without a sign, nan as a dash."""
    if math.isnan(value):
        return "-"
    text = format(value, kind)
    return text if float(text.rstrip("%")) else text.lstrip("+-")
