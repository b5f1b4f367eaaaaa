"""Workloads by name: a dataset, a model and a recipe.

`resolve` returns the complete configuration of a trial from the names of a workload and an
optimizer, and from values that replace those of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import precond
from precond import HyperparameterError
from precond.hyperparameters import nearest
from precond.peers.library import canonical
from precond.registry import lookup, real_numbers
from trainables.config import TrialConfig
from trainables.data import DataError, source
from trainables.descent import build_optimizer
from trainables.models import Fit, Model, model
from trainables.recipes import Recipe
from trainables.recipes.tables import RECIPES, USER_DATA, UserData
from trainables.settings import NEUTRAL, field_problems, worker_problems
from trainables.workload import Workload, normalise

# Incremented when the training loop gives different numbers for the same configuration.
LOOP_NUMERICS = 1
WORKLOADS = tuple(RECIPES)
PATTERNS = tuple(data.pattern for data in USER_DATA.values())
RECIPE_FIELDS = ("batch_size", "epochs", "schedule")
EXECUTION = ("precision", "compile", "channels_last")
RECIPE_SETTINGS = (*RECIPE_FIELDS, *NEUTRAL, *EXECUTION)
"""The names of all values besides hyperparameters that a study or a command line can set."""


PLUGINS: dict[str, Workload] = {}
"""The workloads that plugins have registered (`trainables.plugins`)."""


def workload(name: str) -> Workload:
    """Return a registered workload, or a workload with a user's data (`USER_DATA`).

    Raises:
        HyperparameterError: The name is unknown; the message contains the nearest and all known
            names. Or a user's data cannot be used.
    """
    if name in PLUGINS:
        return PLUGINS[name]
    recipe = find_recipe(name)
    dataset, _, architecture = name.rpartition("/")
    return Workload(name=name, source=source(dataset), model=model(architecture), recipe=recipe)


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a workload; the data are not needed.

    Raises:
        HyperparameterError: The name is unknown; the message contains the nearest and all known
            names.
    """
    if name in PLUGINS:
        return PLUGINS[name].recipe
    dataset, _, architecture = name.rpartition("/")
    data = _user_data(name)
    if data is not None:
        if architecture not in data.recipes or not dataset.partition(":")[2]:
            advice = nearest(architecture, data.recipes)
            raise HyperparameterError(f'workload = "{name}": must be {data.pattern}.{advice}')
        return data.recipes[architecture]
    if name not in RECIPES:
        advice = nearest(name, [*RECIPES, *PLUGINS, *PATTERNS])
        raise HyperparameterError(f'workload = "{name}": unknown.{advice}')
    return RECIPES[name]


def _user_data(name: str) -> UserData | None:
    """Return the kind of a workload with a user's data, or None for all other workloads."""
    prefix, colon, _ = name.partition(":")
    return USER_DATA.get(prefix) if colon else None


def unknown_workload(name: str) -> str | None:
    """Return an error message if the workload does not exist, or None; data are not needed."""
    try:
        find_recipe(name)
    except HyperparameterError as error:
        return str(error)
    return None


def prepare_data(
    names: Iterable[str], data_dir: Path, *, download: bool = False, verify: bool = False
) -> list[str]:
    """Download missing datasets of workloads if requested, and return one line for each error.

    Args:
        names: The names of the workloads to train.
        data_dir: The folder that contains the datasets.
        download: Download missing datasets. Damaged files are not replaced.
        verify: Read all files and compare their checksums. Downloaded files are always verified.
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
    """Return the names that can be set for an optimizer's trials.

    They are the hyperparameters, except the seed, and `RECIPE_SETTINGS`.
    """
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
    """Return the complete configuration of a trial.

    The optimizer's defaults are replaced by the recipe's values, and these by the overrides.

    Args:
        name: The name of the workload.
        optimizer: The name of a registered optimizer, or `pytorch-optimizer:NAME`.
        overrides: Hyperparameters that a study or the command line sets.
        recipe: Other values that replace those of the recipe: `RECIPE_SETTINGS`, `train_fraction`
            and `workers`.
        seed: The trial's seed. It also seeds the optimizer, whose own seed cannot be set.
        as_released: Use the as-released variant, which follows the conventions of the paper's code.

    Raises:
        HyperparameterError: The message has one line for each unknown name and each value out of
            range. Some ranges depend on the model.
    """
    chosen, optimizer = workload(name), canonical(optimizer)
    values = {**chosen.recipe.hyperparameters(optimizer, as_released), **(overrides or {})}
    recipe = recipe or {}
    settings = {key: _parsed(key, value) for key, value in recipe.items() if key in NEUTRAL}
    fields = {key: getattr(chosen.recipe, key) for key in RECIPE_FIELDS}
    fields |= {key: value for key, value in recipe.items() if key not in NEUTRAL}
    errors = chosen.problems(settings, fields["epochs"])
    shapes = None if errors else skeleton(chosen.model, chosen.fit(chosen.settings(settings)))
    errors = precond.check(optimizer, values, shapes) + errors
    errors += field_problems(fields, chosen.source.train_examples, shapes)
    errors += worker_problems(optimizer, fields.get("workers", 1), fields["batch_size"])
    if errors:
        raise HyperparameterError("\n".join(errors))
    defaults = precond.defaults(optimizer)
    defaults.pop("seed", None)
    entry, reals = lookup(optimizer), real_numbers(optimizer)
    config = TrialConfig(
        workload=name,
        optimizer=optimizer,
        hyperparameters={
            key: normalise(values.get(key, default), default, key in reals)
            for key, default in defaults.items()
        },
        seed=seed,
        numerics={
            "loop": LOOP_NUMERICS,
            "optimizer": entry.numerics,
            "recipe": chosen.recipe.numerics,
            **({} if entry.version is None else {"package": entry.version}),
        },
        settings=chosen.settings(settings),
        plugin=code_hash(chosen.plugin, entry.plugin),
        data=chosen.source.content,
        **fields,
    )
    # On a large model, the check would take too long.
    if entry.plugin and (chosen.plugin or chosen.source.name == "digits"):
        _check_builder(config, chosen)
    return config


def code_hash(*hashes: str | None) -> str | None:
    """Return the field `plugin` of a trial, from the hashes of its workload and its optimizer."""
    return "+".join(dict.fromkeys(filter(None, hashes))) or None


def _check_builder(config: TrialConfig, chosen: Workload) -> None:
    """Build a plugin's optimizer once, so that it can reject its hyperparameters before training.

    Raises:
        HyperparameterError: The plugin's function raised a ValueError or a TypeError.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            build_optimizer(config, chosen.build(config.settings))
    except HyperparameterError:
        raise
    except (TypeError, ValueError) as error:
        values = ", ".join(f"{name} = {value}" for name, value in config.hyperparameters.items())
        arm = f"{config.optimizer} with {values}" if values else config.optimizer
        reason = str(error).partition("\n")[0]
        raise HyperparameterError(f"{arm}: {type(error).__name__}: {reason}") from error


def deviations(config: TrialConfig) -> dict[str, tuple[Any, Any]]:
    """Return the differences between a trial and the recipe of its workload.

    The trial is compared with the corrected and with the as-released variant, and the smaller set
    of differences is returned.

    Returns:
        Pairs (the recipe's value, the trial's value) by name.
    """
    recipe, defaults = find_recipe(config.workload), precond.defaults(config.optimizer)
    reals, candidates = real_numbers(config.optimizer), []
    for as_released in (False, True):
        values = {**defaults, **recipe.hyperparameters(config.optimizer, as_released)}
        normal = {
            name: normalise(values[name], defaults[name], name in reals)
            for name in config.hyperparameters
        }
        candidates.append(_differing(normal, config.hyperparameters))
    # A user's data may not exist here, so a default resolution is not compared.
    can_be_absent = _user_data(config.workload) is not None
    recipe_settings = {**NEUTRAL, **recipe.settings}
    values = recipe_settings if can_be_absent else workload(config.workload).settings({})
    settings = {
        name: normalise(value, NEUTRAL[name])
        for name, value in values.items()
        if value is not None or not can_be_absent
    }
    fields = {name: getattr(recipe, name) for name in RECIPE_FIELDS}
    fields |= {"precision": "float32", "compile": False, "channels_last": False}
    differences = _differing(fields, vars(config)) | _differing(settings, config.settings)
    return differences | min(candidates, key=len)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the pairs of different values, for the names that both mappings contain."""
    return {
        name: (first[name], second[name])
        for name in first
        if name in second and first[name] != second[name]
    }


@cache
def skeleton(model: Model, fit: Fit) -> nn.Module:
    """Return a model on the meta device, which has shapes but allocates no weights."""
    with torch.device("meta"):
        return model.build(fit)


def _parsed(name: str, value: Any) -> Any:
    """Return the value of a setting; the text `9/0.5` for `randaugment` becomes a pair."""
    if name != "randaugment" or not isinstance(value, str):
        return value
    try:
        return tuple(float(part) for part in value.split("/"))
    except ValueError:
        return value
