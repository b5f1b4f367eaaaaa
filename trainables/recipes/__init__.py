"""Recipes: the hyperparameters and settings of each workload, and of each optimizer on it.

`nysact` and `steve` contain the recipes of one paper each and state the source of each value.
`digits` and `small` contain recipes of this project, `tables` lists all recipes by workload, and
`tuning` is the procedure that tunes recipes. Recipes are data: they may combine dictionaries, but
they do not import torch, models or datasets. A changed value changes trial keys.

The as-released variant of a recipe follows the conventions of the paper's released code. The
corrected variant follows the definitions of this project.
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
        exact: The count of the implementation that the paper names or has released.
        published: The paper's rounded count in millions, or None if the paper does not state it.
        note: The reason for a difference that rounding does not explain.
    """

    exact: int
    published: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The tuning of an optimizer's hyperparameters.

    Attributes:
        workload: The workload on which the configurations were trained.
        optimizer: The optimizer that was trained.
        ranges: The smallest and the largest value of each hyperparameter that was searched.
        configurations: Number of configurations that were trained.
        seeds: The seeds with which each configuration was trained.
        metric: The metric that selected the configuration.
        values: The selected values.
        score: The mean of the metric over the seeds, for the selected values.
    """

    workload: str
    optimizer: str
    ranges: Mapping[str, tuple[float, float]]
    configurations: int
    seeds: tuple[int, ...]
    metric: str
    values: Mapping[str, float]
    score: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyperparameters and settings of a workload.

    Attributes:
        paper: The paper that the recipe is from; empty for a recipe of this project.
        batch_size: Examples per step.
        epochs: Passes over the training set.
        schedule: The learning-rate schedule after the warm-up, one of `SCHEDULES`.
        settings: Values of `trainables.settings`. All other settings are neutral.
        optimizers: Hyperparameters of the corrected variant by optimizer. All other hyperparameters
            have their defaults.
        as_released: Hyperparameters by optimizer that the as-released variant replaces or adds.
            Published numbers are compared with this variant.
        assumed: One line for each value that the paper does not state or that its code contradicts.
        tuned: By optimizer, a tuning that is not in a committed ledger (`tuning`).
        parameters: The number of parameters of the model.
        numerics: Version number, which is incremented when a change of the data, the model or the
            split alters the results of the same configuration.
    """

    paper: str = ""
    batch_size: int
    epochs: int
    schedule: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    optimizers: Hyperparameters
    as_released: Hyperparameters = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    parameters: Parameters | None = None
    numerics: int = 1

    def hyperparameters(self, optimizer: str, as_released: bool = False) -> dict[str, Any]:
        """Return the hyperparameters that the recipe sets for an optimizer."""
        conventions = self.as_released.get(optimizer, {}) if as_released else {}
        return {**self.optimizers.get(optimizer, {}), **conventions}
