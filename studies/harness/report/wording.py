"""How numbers are printed: accuracies in percent with two decimals, others with four digits, a dash for nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

FEW = 5


class Unit(NamedTuple):
    """How a metric is printed.

    Attributes:
        scale: What its values are multiplied by.
        decimals: Digits after the point; None for four significant ones.
        mean: Header of a column of means.
        difference: What a difference is in.
    """

    scale: float
    decimals: int | None
    mean: str
    difference: str

    def show(self, value: float, signed: bool = False) -> str:
        """A value, with its sign if it is a difference."""
        kind = "#.4g" if self.decimals is None else f".{self.decimals}f"
        return number(self.scale * value, f"{'+' if signed else ''}{kind}")

    def interval(self, lo: float, hi: float, signed: bool = False) -> str:
        """Both ends in brackets."""
        return "-" if math.isnan(lo) else f"[{self.show(lo, signed)}, {self.show(hi, signed)}]"


def unit(metric: str) -> Unit:
    """The unit of a trial's metric."""
    return Unit(100, 2, "mean %", "points") if "accuracy" in metric else Unit(1, None, "mean", metric.replace("/", " "))


def few(names: Sequence[str]) -> str:
    """Names, or how many there are."""
    return ", ".join(names) if len(names) <= FEW else f"{len(names)} arms"


def number(value: float, kind: str) -> str:
    """A value in a format of Python's; what is printed as zero has no sign, and no value is a dash."""
    if math.isnan(value):
        return "-"
    text = format(value, kind)
    return text if float(text.rstrip("%")) else text.lstrip("+-")


def probability(p: float) -> str:
    """A p-value; never 0."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
