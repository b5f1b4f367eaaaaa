"""Formatting of values: units, numbers, p-values, durations; and the direction of a metric.

`trainables.metrics` lists the directions and the formats of the metrics of workloads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import trainables.metrics
from precond.counts import counted
from precond.hyperparameters import HyperparameterError, nearest
from studies.harness.design.claims import Claim

FEW = 5
HEADLINE = "headline"  # stands for the metric that describes a workload's results: `Task.headline`
PARTS = ("train", "test", "val")
# The time in which a trial reaches a target; see `evidence.targets`.
EPOCHS_TO_TARGET, SECONDS_TO_TARGET = "epochs_to_target", "seconds_to_target"


def higher_is_better(metric: str) -> bool:
    """Return True if larger values of a metric are better, such as those of an accuracy."""
    return trainables.metrics.metric(metric).higher_is_better


def bounds(metric: str) -> tuple[float, float]:
    """Return the range of a metric, which the interval of its mean respects."""
    return trainables.metrics.metric(metric).bounds


def words(metric: str) -> str:
    """Return a metric's name for use in sentences, such as `test accuracy`."""
    return metric.replace("/", " ").replace("_", " ")


def metric_name(metric: str) -> str:
    """Return the last part of a metric's name in words, such as `accuracy`."""
    return words(metric.rpartition("/")[2])


class Unit(NamedTuple):
    """The format of a metric.

    Attributes:
        scale: Factor that is applied to the values.
        decimals: Number of decimals; None for four significant digits.
        mean: Title of a column of means.
        difference: Unit of a difference.
        axis: Label of an axis.
    """

    scale: float
    decimals: int | None
    mean: str
    difference: str
    axis: str

    @property
    def percent(self) -> bool:
        """True if values are shown in percent."""
        return self.scale == 100

    def show(self, value: float, signed: bool = False) -> str:
        """Return a value as text, with a plus sign if `signed` is True and the value is positive."""
        kind = "#.4g" if self.decimals is None else f".{self.decimals}f"
        return number(self.scale * value, f"{'+' if signed else ''}{kind}")

    def interval(self, lo: float, hi: float, signed: bool = False) -> str:
        """Return both ends in brackets, or a dash if there is no interval."""
        return "-" if math.isnan(lo) else f"[{self.show(lo, signed)}, {self.show(hi, signed)}]"


def unit(metric: str) -> Unit:
    """Return the unit of a metric: percent for fractions, otherwise the value itself."""
    name = words(metric)
    percent = Unit(100, 2, "mean %", "percentage points", f"{name} (%)")
    is_percent = trainables.metrics.metric(metric).percent
    return percent if is_percent else Unit(1, None, "mean", name, name)


def show(metric: str, value: float) -> str:
    """Return a value of a metric with its unit, such as `98.50%`."""
    return trainables.metrics.metric(metric).show(value)


def on_workload(metric: str, workload: str) -> str:
    """Return the name of a metric on a workload.

    `test/headline` stands for the workload's headline metric, such as `test/accuracy`.

    Raises:
        HyperparameterError: The workload is unknown or has no such metric.
    """
    from trainables import workloads

    task = workloads.workload(workload).task
    part, _, name = metric.rpartition("/")
    if name == HEADLINE:
        return f"{part}/{task.headline.name}"
    known = [HEADLINE, *(m.name for m in (*task.metrics, trainables.metrics.LOSS))]
    if part in PARTS and name not in known:
        advice = nearest(metric, [f"{part}/{name}" for name in known])
        raise HyperparameterError(f'metric = "{metric}": {workload} has no such metric.{advice}')
    return metric


def claim_metric(claim: Claim, default: str, workload: str) -> str | None:
    """Return the metric of a claim on a workload; None if the workload has no such metric.

    `default` is the metric of the study's tables.
    """
    try:
        return on_workload(claim.metric, workload) if claim.metric else default
    except HyperparameterError:
        return None


def step(metric: str, workload: str) -> float:
    """Return the distance of two neighbouring values of a metric: 1/600 for 600 test images.

    It is 0 for a continuous metric, such as a loss.
    """
    from trainables import workloads

    if metric != f"test/{trainables.metrics.ACCURACY.name}":
        return 0.0
    return 1 / workloads.workload(workload).source.test_examples


def number(value: float, kind: str) -> str:
    """Format a value by a Python format specifier; zero has no sign, and nan is a dash."""
    if math.isnan(value):
        return "-"
    text = format(value, kind)
    return text if float(text.rstrip("%")) else text.lstrip("+-")


def join_words(words: Sequence[str], conjunction: str = "and") -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    return f" {conjunction} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def few(arms: Sequence[str]) -> str:
    """Return the labels of arms in words, or only their number if there are more than `FEW`."""
    return join_words(arms) if len(arms) <= FEW else counted(len(arms), "arm")


def probability(p: float) -> str:
    """Return a p-value as text; values below 0.001 as `< 0.001`."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Return a duration such as `40 s`, `12 min` or `3.4 hours`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
