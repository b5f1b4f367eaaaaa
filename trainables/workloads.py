"""Workloads: model, data and recipe by name. `resolve` returns the trial of a workload, an optimizer and overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import precond
from precond import HyperparameterError
from precond.hyperparameters import nearest
from precond.registry import lookup
from trainables.config import TrialConfig
from trainables.data import DataError, source
from trainables.data.base import Source
from trainables.models import MODELS, Fit, Model, model
from trainables.recipes import Recipe, digits, nysact, steve
from trainables.settings import (
    NEUTRAL,
    applicable,
    field_problems,
    is_integer,
    setting_problems,
    worker_problems,
)

LOOP_NUMERICS = 1  # raised when the training loop gives other numbers for the same configuration
RECIPES: dict[str, Recipe] = {
    "digits/cnn": digits.DIGITS_CNN,
    "digits/mlp": digits.DIGITS_MLP,
    "cifar10/resnet32": nysact.CIFAR10_RESNET32,
    "cifar10/resnet110": nysact.CIFAR10_RESNET110,
    "cifar10/densenet121": nysact.CIFAR10_DENSENET121,
    "cifar10/lenet5": nysact.CIFAR10_LENET5,
    "cifar10/resnet50": steve.CIFAR10_RESNET50,
    "cifar100/resnet32": nysact.CIFAR100_RESNET32,
    "cifar100/resnet110": nysact.CIFAR100_RESNET110,
    "cifar100/densenet121": nysact.CIFAR100_DENSENET121,
    "cifar100/vit_s16": steve.CIFAR100_VIT_S16,
    "tinyimagenet/resnet50": steve.TINYIMAGENET_RESNET50,
    "imagenet/resnet50": nysact.IMAGENET_RESNET50,
    "imagenet/deit_s": nysact.IMAGENET_DEIT_S,
}
IMAGE_FOLDER = "imagefolder:"
# A user's images are trained on as in the paper of the model.
FOLDER_RECIPES: dict[str, Recipe] = {
    **dict.fromkeys(("cnn", "mlp"), digits.DIGITS_CNN),
    **dict.fromkeys(("lenet5", "resnet20", "resnet32", "resnet110", "densenet121"), nysact.CIFAR),
    "resnet50": nysact.IMAGENET_RESNET50,
    "deit_s": nysact.IMAGENET_DEIT_S,
    "vit_s16": steve.CIFAR100_VIT_S16,
}
WORKLOADS = tuple(RECIPES)
PATTERN = f"{IMAGE_FOLDER}PATH/MODEL"
RECIPE_FIELDS = ("batch_size", "epochs", "schedule")
EXECUTION = ("precision", "compile", "channels_last")
RECIPE_SETTINGS = (*RECIPE_FIELDS, *NEUTRAL, *EXECUTION)
"""Everything that can be set beside hyperparameters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """A dataset, a model and a recipe.

    Attributes:
        name: `DATASET/MODEL`.
        source: The dataset.
        model: The model.
        recipe: How it is trained.
        plugin: SHA-256 of the user's file that registered it, or None.
    """

    name: str
    source: Source
    model: Model
    recipe: Recipe
    plugin: str | None = None

    @property
    def architecture(self) -> str:
        """Name of the model."""
        return self.name.rpartition("/")[2]

    @property
    def setting_names(self) -> list[str]:
        """Names of the settings that apply to the dataset and the model."""
        return applicable(
            images=self.source.augmented, stochastic_depth=self.model.stochastic_depth
        )

    def settings(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return a trial's settings, complete: the stated values, else the recipe's, else the neutral ones."""
        known = {**NEUTRAL, **self.recipe.settings, **stated}
        values = {name: _normal(known[name], NEUTRAL[name]) for name in self.setting_names}
        if "resolution" in values:
            values["resolution"] = values["resolution"] or self.source.size
            values["test_resolution"] = values["test_resolution"] or values["resolution"]
        return values

    def fit(self, settings: Mapping[str, Any]) -> Fit:
        """Return the images and classes that the model is built for with complete settings."""
        size = settings.get("resolution", self.source.size)
        return Fit(self.source.classes, self.source.channels, size, settings.get("drop_path", 0.0))

    def problems(self, stated: Mapping[str, Any], epochs: Any) -> list[str]:
        """Return one line for each setting that is out of range, or that the model or the epochs do not allow."""
        if errors := setting_problems(stated, self.setting_names, self.name):
            return errors
        settings = self.settings(stated)
        if is_integer(epochs) and 1 <= epochs <= settings["warmup_epochs"]:
            errors.append(
                f"warmup_epochs = {settings['warmup_epochs']}: must be below epochs = {epochs}"
            )
        fit = self.fit(settings)
        return errors + self.model.problems(
            self.architecture, fit, settings.get("test_resolution", fit.size)
        )

    def build(self, settings: Mapping[str, Any]) -> nn.Module:
        """Return a new model; its initial weights come from torch's global generator."""
        return self.model.build(self.fit(settings))


PLUGINS: dict[str, Workload] = {}
"""Workloads that a user's file has registered (`trainables.plugins`)."""


def workload(name: str) -> Workload:
    """Return a registered workload, or `imagefolder:PATH/MODEL`.

    Raises:
        HyperparameterError: Unknown name; the message lists the nearest and all known names.
    """
    if name in PLUGINS:
        return PLUGINS[name]
    recipe = stated_recipe(name)
    dataset, _, architecture = name.rpartition("/")
    return Workload(name=name, source=source(dataset), model=model(architecture), recipe=recipe)


def stated_recipe(name: str) -> Recipe:
    """Return a workload's recipe; its data may be missing.

    Raises:
        HyperparameterError: Unknown name; the message lists the nearest and all known names.
    """
    if name in PLUGINS:
        return PLUGINS[name].recipe
    folder, _, architecture = name.rpartition("/")
    if name.startswith(IMAGE_FOLDER):
        if architecture not in MODELS or folder in ("", IMAGE_FOLDER):
            raise HyperparameterError(
                f'workload = "{name}": must be {PATTERN}.{nearest(architecture, MODELS)}'
            )
        return FOLDER_RECIPES[architecture]
    if name not in RECIPES:
        raise HyperparameterError(
            f'workload = "{name}": unknown.{nearest(name, [*RECIPES, *PLUGINS, PATTERN])}'
        )
    return RECIPES[name]


def unknown_workload(name: str) -> str | None:
    """Return one line if there is no such workload; its data may be missing."""
    try:
        stated_recipe(name)
    except HyperparameterError as error:
        return str(error)
    return None


def ready(
    names: Iterable[str], data_dir: Path, *, download: bool = False, verify: bool = False
) -> list[str]:
    """Return one line for each error in the datasets of workloads; called before any trial starts.

    Args:
        names: Names of the workloads to be trained.
        data_dir: The folder that contains the datasets.
        download: Fetch what is missing first; a damaged file is never replaced.
        verify: Read everything and compare checksums; what was just fetched is compared in any case.
    """
    errors: list[str] = []
    checked: set[str] = set()
    for name in names:
        try:
            dataset = workload(name).source
            if dataset.name in checked:
                continue
            checked.add(dataset.name)
            if download:
                dataset.download(data_dir)
            errors += dataset.problems(data_dir, verify)
        except (DataError, HyperparameterError) as error:
            errors += str(error).splitlines()
    return list(dict.fromkeys(errors))


def settable(optimizer: str) -> set[str]:
    """Return what can be set for a trial of an optimizer: hyperparameters (not the seed) and `RECIPE_SETTINGS`."""
    return {*precond.defaults(optimizer), *RECIPE_SETTINGS} - {"seed"}


def resolve(
    name: str,
    optimizer: str,
    overrides: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    as_released: bool = False,
) -> TrialConfig:
    """Return a complete trial: the optimizer's defaults, replaced by the recipe's values, then by the overrides.

    Args:
        name: Workload.
        optimizer: Registered optimizer.
        overrides: Hyperparameters set by a study or on the command line.
        recipe: Other fields that replace the recipe's: `RECIPE_SETTINGS`, `train_fraction`, `workers`.
        seed: The trial's seed. It also seeds the optimizer's sketches, so the optimizer's seed cannot be set.
        as_released: Use the as-released variant, which has the conventions of the paper's code.

    Raises:
        HyperparameterError: One line for each unknown name or value out of range, the model's limits included.
    """
    chosen = workload(name)
    stated = {**chosen.recipe.hyperparameters(optimizer, as_released), **(overrides or {})}
    rest = dict(recipe or {})
    settings = {key: _parsed(key, rest.pop(key)) for key in list(rest) if key in NEUTRAL}
    fields = {**{key: getattr(chosen.recipe, key) for key in RECIPE_FIELDS}, **rest}
    errors = chosen.problems(settings, fields["epochs"])
    shapes = None if errors else skeleton(chosen.model, chosen.fit(chosen.settings(settings)))
    errors = precond.check(optimizer, stated, shapes) + errors
    errors += field_problems(fields, chosen.source.train_examples, shapes)
    errors += worker_problems(optimizer, fields.get("workers", 1), fields["batch_size"])
    if errors:
        raise HyperparameterError("\n".join(errors))
    defaults = precond.defaults(optimizer)
    defaults.pop("seed", None)
    return TrialConfig(
        workload=name,
        optimizer=optimizer,
        hyperparameters={
            key: _normal(stated.get(key, default), default) for key, default in defaults.items()
        },
        seed=seed,
        numerics={
            "loop": LOOP_NUMERICS,
            "optimizer": lookup(optimizer).numerics,
            "recipe": chosen.recipe.numerics,
        },
        settings=chosen.settings(settings),
        plugin=chosen.plugin or lookup(optimizer).plugin,
        **fields,
    )


def deviations(config: TrialConfig) -> dict[str, tuple[Any, Any]]:
    """Return what differs between a trial and its workload's recipe, by name: (the recipe's value, the trial's).

    Of the corrected and the as-released variant, the one with fewer differences is compared.
    """
    recipe, defaults = stated_recipe(config.workload), precond.defaults(config.optimizer)
    variants = [
        {**defaults, **recipe.hyperparameters(config.optimizer, as_released)}
        for as_released in (False, True)
    ]
    normal = [
        {name: _normal(values[name], defaults[name]) for name in config.hyperparameters}
        for values in variants
    ]
    fewest = min((_differing(values, config.hyperparameters) for values in normal), key=len)
    # The resolution of a folder's images is known only where the folder is.
    away = config.workload.startswith(IMAGE_FOLDER)
    settings = {**NEUTRAL, **recipe.settings} if away else workload(config.workload).settings({})
    stated = {
        name: _normal(value, NEUTRAL[name])
        for name, value in settings.items()
        if value is not None or not away
    }
    fields = {name: getattr(recipe, name) for name in RECIPE_FIELDS}
    fields |= {"precision": "float32", "compile": False, "channels_last": False}
    return _differing(fields, vars(config)) | _differing(stated, config.settings) | fewest


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return pairs of different values by name, of the names that both have."""
    return {
        name: (ours[name], theirs[name])
        for name in ours
        if name in theirs and ours[name] != theirs[name]
    }


@cache
def skeleton(model: Model, fit: Fit) -> nn.Module:
    """Return a model on the meta device, which has shapes and no memory for weights."""
    with torch.device("meta"):
        return model.build(fit)


def _parsed(name: str, value: Any) -> Any:
    """Return the value of a setting from a command line: `randaugment=9/0.5` is a pair."""
    if name != "randaugment" or not isinstance(value, str):
        return value
    try:
        return tuple(float(part) for part in value.split("/"))
    except ValueError:
        return value


def _normal(value: Any, default: Any) -> Any:
    """Return a value as it enters the key: 1 and 1.0 are the same learning rate, a tuple is a list."""
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    return [float(part) for part in value] if isinstance(value, tuple) else value
