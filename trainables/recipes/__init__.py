"""Recipes: what is held fixed on a workload, and each optimizer's hyperparameters there. Data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a workload is trained.

    Attributes:
        batch_size: Examples per step.
        epochs: Passes over the training set.
        schedule: `cosine` or `constant`.
        optimizers: Hyperparameters by optimizer; what is not named keeps the optimizer's default.
        numerics: Raised when the same configuration gives other numbers (data, model, split).
    """

    batch_size: int
    epochs: int
    schedule: str
    optimizers: Mapping[str, Mapping[str, Any]]
    numerics: int = 1
