"""The scale on which a judgement compares a candidate with a baseline on one workload."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from studies.harness.evidence.metrics import higher_is_better


class Scale(NamedTuple):
    """The metric on a workload, and how gains are computed from it.

    Attributes:
        workload: The workload.
        metric: The metric, such as `test/mse`.
        ratio: True if a gain is log(baseline / candidate). Otherwise, it is the difference.
        margin: The margin of equality in units of the gain; 0 for none.
        step: The distance between neighbouring values of the metric; 0 if it is continuous.
    """

    workload: str
    metric: str
    ratio: bool
    margin: float = 0.0
    step: float = 0.0

    def gains(self, candidate: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        """Return the gains [seeds], which are positive if the candidate is better.

        A trial without a result has the worst value, which is infinite, so the gain is infinite. If
        neither trial has a result, the gain is 0. nan stands for a trial that has not ended.
        """
        first, second = candidate, baseline
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.ratio:
                first, second = -np.log(first), -np.log(second)
            elif not higher_is_better(self.metric):
                first, second = -first, -second
            return np.where(first == second, 0.0, first - second)

    def effects(self, gains: np.ndarray) -> np.ndarray:
        """Return gains as candidate / baseline, or as candidate - baseline, of any shape."""
        if self.ratio:
            with np.errstate(over="ignore"):
                return np.exp(-gains)
        return gains if higher_is_better(self.metric) else -gains
