"""The metrics of workloads by name: their direction and their format.

The metric `accuracy` is logged as `train/accuracy` and as `test/accuracy` or `val/accuracy`. The
module does not import torch, so that a command can format results without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """The direction and the format of a metric.

    Attributes:
        name: The name without a prefix, such as `accuracy` for `test/accuracy`.
        higher_is_better: True if larger values are better.
        percent: True if the metric is a fraction that is shown in percent.
    """

    name: str
    higher_is_better: bool = False
    percent: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """The range of the values: a fraction is in [0, 1], and an error, a cost or a time is >= 0.

        A user-defined metric can be negative although smaller values are better;
        `intervals.summarize` then uses the t-interval.
        """
        if self.percent:
            return 0.0, 1.0
        return -math.inf if self.higher_is_better else 0.0, math.inf

    def show(self, value: float) -> str:
        """Return a value as text: `98.50%`, or four significant digits."""
        return f"{value:.2%}" if self.percent else f"{value:#.4g}"


ACCURACY = Metric("accuracy", higher_is_better=True, percent=True)
PIXEL_ACCURACY = Metric("pixel_accuracy", higher_is_better=True, percent=True)
MSE = Metric("mse")
PERPLEXITY = Metric("perplexity")
LOSS = Metric("loss")
METRICS = {m.name: m for m in (ACCURACY, PIXEL_ACCURACY, MSE, PERPLEXITY, LOSS)}
"""All metrics of workloads; a plugin adds its own."""


def metric(name: str) -> Metric:
    """Return the metric of a name such as `accuracy` or `test/accuracy`.

    For a name that is not in `METRICS`, such as that of a time, smaller values are better.
    """
    last = name.rpartition("/")[2]
    return METRICS.get(last, Metric(last))
