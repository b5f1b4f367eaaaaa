"""A workload: a dataset, a model, a task and a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from precond.hyperparameters import is_integer
from trainables.data import DataError
from trainables.data.base import Batch, Source
from trainables.models import Fit, Model
from trainables.recipes import Recipe
from trainables.settings import NEUTRAL, applicable, setting_problems
from trainables.tasks import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """A dataset, a model, a task and a recipe.

    The task is that of the model or, if it has none, that of the dataset.

    Attributes:
        name: `DATASET/MODEL`.
        source: The dataset.
        model: The model.
        recipe: The hyperparameters and settings of the training.
        plugin: Hash of the plugin's code that the workload uses, or None.
    """

    name: str
    source: Source
    model: Model
    recipe: Recipe
    plugin: str | None = None

    @property
    def task(self) -> Task:
        """The loss and the metrics."""
        return self.model.task or self.source.task

    @property
    def architecture(self) -> str:
        """The name of the model."""
        return self.name.rpartition("/")[2]

    @property
    def setting_names(self) -> list[str]:
        """The names of the settings that apply to the dataset and the model."""
        return applicable(
            images=self.source.augmented,
            stochastic_depth=self.model.stochastic_depth,
            mixes_labels=self.task.mixes_labels,
            dataset=self.source.settings,
        )

    def settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings of a trial: overrides, the recipe's values, or neutral values."""
        known = {**NEUTRAL, **self.recipe.settings, **overrides}
        values = {name: normalise(known[name], NEUTRAL[name]) for name in self.setting_names}
        if "resolution" in values:
            values["resolution"] = values["resolution"] or self.source.size
            values["test_resolution"] = values["test_resolution"] or values["resolution"]
        return values

    def fit(self, settings: Mapping[str, Any]) -> Fit:
        """Return the arguments for building the model, given complete settings."""
        size = settings.get("resolution", self.source.size)
        return Fit(self.source.classes, self.source.channels, size, settings.get("drop_path", 0.0))

    def problems(self, overrides: Mapping[str, Any], epochs: Any) -> list[str]:
        """Return one line for each setting that the workload or the epochs do not allow."""
        if errors := setting_problems(overrides, self.setting_names, self.name):
            return errors
        settings = self.settings(overrides)
        warmup = settings["warmup_epochs"]
        if is_integer(epochs) and 1 <= epochs <= warmup:
            errors.append(f"warmup_epochs = {warmup}: must be below epochs = {epochs}")
        fit = self.fit(settings)
        test_size = settings.get("test_resolution", fit.size)
        return errors + self.model.problems(self.architecture, fit, test_size)

    def check_content(self, content: str | None) -> None:
        """Check that the data are those with which a trial was planned.

        Args:
            content: The field `data` of the trial.

        Raises:
            DataError: The data have changed.
        """
        if content != self.source.content:
            rule = f"the trial requires data with the SHA-256 {content}"
            actual = self.source.content
            raise DataError(
                f"{self.source.name}: the SHA-256 is {actual}, but {rule}; restore the data"
            )

    def random_batch(self, examples: int, settings: Mapping[str, Any]) -> Batch:
        """Return inputs and targets of the task, on the CPU, to measure costs.

        The inputs are random, or examples of a plugin's data. Equal arguments give equal batches.
        """
        generator = torch.Generator().manual_seed(0)
        inputs, targets = self.source.random_batch(examples, self.fit(settings).size, generator)
        return inputs, self.task.targets(inputs, targets)

    def build(self, settings: Mapping[str, Any]) -> nn.Module:
        """Return a new model, whose initial weights are drawn from torch's global generator."""
        return self.model.build(self.fit(settings))


def normalise(value: Any, default: Any, real: bool = False) -> Any:
    """Return a value in the form that enters the key.

    An integer becomes a float if the default is a float. A tuple becomes a list, whose elements
    have the types of the default's; they are floats if the default is not a tuple.

    Args:
        value: The value.
        default: The default of the hyperparameter or the setting.
        real: True if 1 and 1.0 are the same value. If the default is None, integers become floats.
            If it is an integer, floats without a fraction become integers, as the default is one.
    """
    if isinstance(value, (tuple, list)):
        defaults = default if isinstance(default, tuple) else (0.0,) * len(value)
        return [normalise(part, element) for part, element in zip(value, defaults, strict=True)]
    if is_integer(value) and (isinstance(default, float) or (real and default is None)):
        return float(value)
    if real and is_integer(default) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
