"""Workloads: a name -> model, data and recipe. `resolve` makes a trial of a workload, an optimizer and overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

import precond
from precond import HyperparameterError
from precond.hyperparameters import nearest
from precond.registry import lookup
from trainables.config import TrialConfig
from trainables.data import TensorData
from trainables.data.digits import digits
from trainables.models.digits_cnn import digits_cnn
from trainables.recipes import Recipe
from trainables.recipes.digits import DIGITS_CNN

LOOP_NUMERICS = 1  # raised when the training loop gives other numbers for the same configuration


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """What is trained.

    Attributes:
        model: Makes the model; its initial weights come from torch's global generator.
        data: Loads the dataset onto a device.
        recipe: How it is trained.
        train_examples: Size of the training set.
    """

    model: Callable[[], nn.Module]
    data: Callable[[torch.device], TensorData]
    recipe: Recipe
    train_examples: int


WORKLOADS: dict[str, Workload] = {
    "digits/cnn": Workload(model=digits_cnn, data=digits, recipe=DIGITS_CNN, train_examples=1197),
}


def workload(name: str) -> Workload:
    """A registered workload.

    Raises:
        HyperparameterError: Unknown name; the message names the nearest and all known ones.
    """
    if name not in WORKLOADS:
        raise HyperparameterError(f'workload = "{name}": unknown.{nearest(name, WORKLOADS)}')
    return WORKLOADS[name]


RECIPE_SETTINGS = ("batch_size", "epochs", "schedule")


def settable(optimizer: str) -> set[str]:
    """What can be set for a trial of an optimizer: its hyperparameters (not the seed) and the recipe's own values."""
    return {*precond.defaults(optimizer), *RECIPE_SETTINGS} - {"seed"}


def resolve(
    name: str,
    optimizer: str,
    overrides: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> TrialConfig:
    """A complete trial: the optimizer's defaults, then the recipe's values, then the overrides.

    Args:
        name: Workload.
        optimizer: Registered optimizer.
        overrides: Hyperparameters set by a study or on the command line.
        recipe: `batch_size`, `epochs` or `schedule` instead of the recipe's.
        seed: The trial's seed; it seeds the optimizer's sketches, too, so it is no hyperparameter.

    Raises:
        HyperparameterError: One line for each unknown name or value out of range, the model's limits included.
    """
    chosen = workload(name)
    held = replace(chosen.recipe, **(recipe or {}))
    stated = {**held.optimizers.get(optimizer, {}), **(overrides or {})}
    wrong = precond.check(optimizer, stated, skeleton(chosen)) + held.problems(chosen.train_examples)
    if wrong:
        raise HyperparameterError("\n".join(wrong))
    defaults = precond.defaults(optimizer)
    defaults.pop("seed", None)
    return TrialConfig(
        workload=name,
        optimizer=optimizer,
        hyperparameters={key: _normal(stated.get(key, default), default) for key, default in defaults.items()},
        batch_size=held.batch_size,
        epochs=held.epochs,
        schedule=held.schedule,
        seed=seed,
        numerics={"loop": LOOP_NUMERICS, "optimizer": lookup(optimizer).numerics, "recipe": held.numerics},
    )


@cache
def skeleton(chosen: Workload) -> nn.Module:
    """The workload's model without memory for its weights, to ask for its shapes."""
    with torch.device("meta"):
        return chosen.model()


def _normal(value: Any, default: Any) -> Any:
    """A value as it enters the key: 1 and 1.0 are the same learning rate, a tuple is a list."""
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    return list(value) if isinstance(value, tuple) else value
