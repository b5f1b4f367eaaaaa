"""Recipes: what is held fixed on a workload, and each optimizer's hyperparameters there. Data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEDULES = ("cosine", "constant")

Hyperparameters = Mapping[str, Mapping[str, Any]]  # optimizer -> name -> value


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How many parameters a model has, and what the paper says.

    Attributes:
        exact: As in the implementation that the paper names or has released.
        published: The paper's rounded count in millions; None where it has none.
        note: Why the two differ, where rounding does not explain it.
    """

    exact: int
    published: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a workload is trained.

    Attributes:
        paper: Whose recipe it is; empty where it is our own.
        batch_size: Examples per step.
        epochs: Passes over the training set.
        schedule: One of `SCHEDULES`, after the warm-up.
        settings: Of `trainables.settings`; what is not named is neutral.
        optimizers: Hyperparameters by optimizer, of its consistent arm; what is not named keeps its default.
        faithful: What the arm that is held against published numbers has differently: the released code's conventions,
            and the values that belong to them.
        assumed: What the paper does not state and is set here, a line each.
        parameters: Of the model.
        numerics: Raised when the same configuration gives other numbers (data, model, split).
    """

    paper: str = ""
    batch_size: int
    epochs: int
    schedule: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    optimizers: Hyperparameters
    faithful: Hyperparameters = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    parameters: Parameters | None = None
    numerics: int = 1

    def hyperparameters(self, optimizer: str, faithful: bool = False) -> dict[str, Any]:
        """What the recipe states for an optimizer."""
        return {**self.optimizers.get(optimizer, {}), **(self.faithful.get(optimizer, {}) if faithful else {})}
