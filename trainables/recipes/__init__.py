"""Recipes: how each workload is trained, and each optimizer's hyperparameters on it.

One file holds the recipes of one paper, or those tuned here on digits, and states the source of each value. Recipes are
data: no recipe imports torch, models or datasets, or computes anything beyond combining dictionaries. A changed
value changes trial keys; `numerics` is raised when numbers change for another reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEDULES = ("cosine", "constant")

Hyperparameters = Mapping[str, Mapping[str, Any]]  # optimizer -> name -> value


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The number of parameters of a model, and the paper's count.

    Attributes:
        exact: Count of the implementation that the paper names or has released.
        published: The paper's rounded count in millions; None where it states none.
        note: Reason for a difference that rounding does not explain.
    """

    exact: int
    published: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a workload is trained.

    Attributes:
        paper: The paper that the recipe is from; empty for a recipe of this project.
        batch_size: Examples per step.
        epochs: Passes over the training set.
        schedule: One of `SCHEDULES`, after the warm-up.
        settings: Values of `trainables.settings`; the others are neutral.
        optimizers: Hyperparameters of the corrected variant by optimizer; the others keep their defaults.
        as_released: Differences of the as-released variant, which is compared with published numbers:
            the released code's conventions and the values that belong to them.
        assumed: Values that the paper does not state, a line each.
        parameters: Number of parameters of the model.
        numerics: Raised when the same configuration gives other numbers (data, model, split).
    """

    paper: str = ""
    batch_size: int
    epochs: int
    schedule: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    optimizers: Hyperparameters
    as_released: Hyperparameters = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    parameters: Parameters | None = None
    numerics: int = 1

    def hyperparameters(self, optimizer: str, as_released: bool = False) -> dict[str, Any]:
        """Return the recipe's hyperparameters of an optimizer."""
        return {
            **self.optimizers.get(optimizer, {}),
            **(self.as_released.get(optimizer, {}) if as_released else {}),
        }
