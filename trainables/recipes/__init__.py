"""Recipes: what is held fixed on a workload, and each optimizer's hyperparameters there. Data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a workload is trained.

    Attributes:
        batch_size: Examples per step.
        epochs: Passes over the training set.
        schedule: One of `SCHEDULES`.
        optimizers: Hyperparameters by optimizer; what is not named keeps the optimizer's default.
        numerics: Raised when the same configuration gives other numbers (data, model, split).
    """

    batch_size: int
    epochs: int
    schedule: str
    optimizers: Mapping[str, Mapping[str, Any]]
    numerics: int = 1

    def problems(self, train_examples: int) -> list[str]:
        """One line for each value out of range, for a training set of that size."""
        wrong = []
        if not _is_integer(self.batch_size) or not 2 <= self.batch_size <= train_examples:
            wrong.append(
                f"batch_size = {self.batch_size!r}: must be an integer in 2..{train_examples}, the training set"
            )
        if not _is_integer(self.epochs) or self.epochs < 1:
            wrong.append(f"epochs = {self.epochs!r}: must be an integer >= 1")
        if self.schedule not in SCHEDULES:
            wrong.append(f"schedule = {self.schedule!r}: must be one of {', '.join(SCHEDULES)}")
        return wrong


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
