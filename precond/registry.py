"""The registry of optimizers by name: defaults, checks and construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from precond import entries, peers
from precond.algorithm import Algorithm
from precond.algorithms import ggt, mfac, sketchysgd
from precond.entries import Entry
from precond.groups import require_model
from precond.hyperparameters import HyperparameterError, nearest, split
from precond.layers import find_layers
from precond.optimizers import (
    EKFAC,
    FOOF,
    GGT,
    KBFGS,
    KBFGSL,
    KFAC,
    MFAC,
    SKFAC,
    STEVE,
    Eva,
    NysAct,
    SketchySGD,
)
from precond.peers import library, muon
from precond.rules import DEFAULT, RULES

SEPARATOR = "+"  # between the names of an optimizer and of its update rule
P = ParamSpec("P")
R = TypeVar("R")


REGISTRY: dict[str, Entry] = {
    "sgd": entries.from_torch(torch.optim.SGD, entries.SGD, entries.SGD_CARD),
    "adam": entries.from_torch(torch.optim.Adam, entries.Adam, entries.ADAM_CARD),
    "adamw": entries.from_torch(
        torch.optim.AdamW, entries.Adam, entries.ADAMW_CARD, weight_decay=0.05
    ),
    "nysact-s": entries.preconditioned(NysAct, sketch="subcolumn"),
    "nysact-g": entries.preconditioned(NysAct, sketch="gaussian"),
    "foof": entries.preconditioned(FOOF),
    "kfac": entries.preconditioned(KFAC),
    "skfac": entries.preconditioned(SKFAC),
    "kbfgs": entries.preconditioned(KBFGS),
    "kbfgs-l": entries.preconditioned(KBFGSL),
    "eva": entries.preconditioned(Eva),
    "ekfac": entries.preconditioned(EKFAC),
    "steve": entries.preconditioned(STEVE),
    "sketchysgd": entries.standalone(SketchySGD, sketchysgd),
    "ggt": entries.standalone(GGT, ggt),
    "mfac": entries.standalone(MFAC, mfac),
    **{name: entries.of_peer(peer) for name, peer in peers.PEERS.items()},
    "muon": Entry(muon.build, (muon.Settings,), numerics=muon.NUMERICS, card=muon.CARD),
}


def available() -> list[str]:
    """Return the names of the registered optimizers."""
    return list(REGISTRY)


def lookup(name: str) -> Entry:
    """Return the entry of an optimizer.

    Args:
        name: A registered name, such as `nysact-s`; a composed name, such as `nysact-s+orthogonal`,
            of an optimizer that preconditions layers and of an update rule; or
            `pytorch-optimizer:NAME`.

    Raises:
        HyperparameterError: The name is unknown, the rule cannot follow the optimizer, or the
            optimizer of the package cannot be used. The message has one line with the known names
            or the reason.
    """
    if error := name_error(name):
        raise HyperparameterError(error)
    if name in REGISTRY:
        return REGISTRY[name]
    if library.is_library_name(name):
        return entries.of_library(library.canonical(name))
    base, _, rule = name.partition(SEPARATOR)
    return entries.composed(REGISTRY[base], rule)


def name_error(name: str, advice: str = "") -> str | None:
    """Return one line if no optimizer has this name or it cannot be used, else None.

    Args:
        name: The name.
        advice: A text that is appended to the line of a name that resembles no known name.
    """
    if name in REGISTRY:
        return None
    if library.is_library_name(name):
        return library.name_error(name)
    base, separator, rule = name.partition(SEPARATOR)
    text = f'optimizer = "{name}"'
    if not separator or base not in REGISTRY:
        return f"{text}: unknown.{nearest(base, REGISTRY, advice)}"
    if base not in (known := composable()):
        return f"{text}: no update rule can follow {base}. Use {base}, or one of {', '.join(known)}"
    if rule == DEFAULT:
        return f"{text}: {DEFAULT} is the default update rule of {base}. Use {base}"
    return None if rule in RULES else f'{text}: unknown rule "{rule}".{nearest(rule, RULES)}'


def composable() -> list[str]:
    """Return the names of the optimizers that each update rule can follow.

    These are the optimizers that precondition layers, except for those whose directions contain
    the learning rate.
    """
    return [name for name, entry in REGISTRY.items() if RULES[DEFAULT] in entry.kinds]


def composed_names() -> list[str]:
    """Return the names of all optimizers with another update rule than the default."""
    rules = [rule for rule in RULES if rule != DEFAULT]
    return [f"{name}{SEPARATOR}{rule}" for name in composable() for rule in rules]


def defaults(name: str) -> dict[str, Any]:
    """Return the hyperparameters of an optimizer with their default values."""
    entry = lookup(name)
    fields = {f.name: f.default for kind in entry.kinds for f in dataclasses.fields(kind)}
    return fields | dict(entry.preset)


def real_numbers(name: str) -> set[str]:
    """Return the hyperparameters of an optimizer for which 1 and 1.0 are the same value."""
    fields = (f for kind in lookup(name).kinds for f in dataclasses.fields(kind))
    return {f.name for f in fields if f.metadata["real"]}


def check(
    name: str, hyperparameters: Mapping[str, Any], model: nn.Module | None = None
) -> list[str]:
    """Return one line for each hyperparameter that is unknown or invalid.

    With `model`, the values are also checked against its layers.
    """
    entry = lookup(name)
    configs, errors = split(*entry.kinds, values={**entry.preset, **hyperparameters})
    shapes = (
        {layer.name: layer.shape for layer in find_layers(model)[0]} if model is not None else {}
    )
    if shapes:
        algorithms = [
            config for config in configs if isinstance(config, Algorithm) and not config.problems()
        ]
        errors += [line for algorithm in algorithms for line in algorithm.model_problems(shapes)]
    if not errors and entry.errors is not None:
        errors = entry.errors({**entry.preset, **hyperparameters}, model)
    return errors


def _check_model_argument(function: Callable[P, R]) -> Callable[P, R]:
    """Replace Python's message for a missing model or for hyperparameters without a name."""

    @wraps(function)
    def checked(*arguments: P.args, **keywords: P.kwargs) -> R:
        if arguments and not isinstance(arguments[0], str):
            kind = type(arguments[0]).__name__
            raise TypeError(
                f"precond.build needs the name of an optimizer first, not {kind}: pass "
                'precond.build("nysact-s", model, lr=0.1)'
            )
        if arguments:
            call = f'precond.build("{arguments[0]}", model'
            require_model(call, arguments[1:], keywords)
        return function(*arguments, **keywords)

    return checked


@_check_model_argument
def build(
    name: str,
    model: nn.Module,
    *,
    params: Iterable[Any] | None = None,
    rule: str = DEFAULT,
    **hyperparameters: Any,
) -> Optimizer:
    """Build an optimizer for a model by its name.

    Args:
        name: One of `available()`; or the name of an optimizer that preconditions layers and that
            of an update rule, such as `nysact-s+orthogonal`; or `pytorch-optimizer:NAME` for an
            optimizer of the package pytorch-optimizer.
        model: The model to train.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        rule: The update rule, as an alternative to a composed name.
        **hyperparameters: Values that replace those of `defaults(name)`.

    Raises:
        HyperparameterError: The name is unknown, or hyperparameters are unknown or out of range.
            The message has one line for each error.
    """
    name = name if rule == DEFAULT else f"{name}{SEPARATOR}{rule}"
    if errors := check(name, hyperparameters):
        raise HyperparameterError("\n".join(errors))
    entry = lookup(name)
    return entry.optimizer(model, params=params, **{**defaults(name), **hyperparameters})
