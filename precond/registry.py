"""One line per optimizer; the only place where algorithms and the torch optimizer meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from precond.algorithm import Algorithm
from precond.algorithms import foof, nysact
from precond.hyperparameters import (
    HyperparameterError,
    flag,
    fraction,
    fractions,
    make,
    nearest,
    non_negative,
    positive,
    problems,
    unknown,
)
from precond.layers import find_layers
from precond.optimizer import Preconditioned


class FOOF(Preconditioned, algorithm=foof.FOOF):
    """SGD preconditioned by the damped inverse of the input covariance (Benzing 2022); see `algorithms/foof.py`."""


class NysAct(Preconditioned, algorithm=nysact.NysAct):
    """SGD preconditioned by a Nystrom approximation of that covariance; see `algorithms/nysact.py`."""


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Hyperparameters of `torch.optim.SGD`."""

    lr: float = positive(0.1)
    momentum: float = fraction(0.9)
    nesterov: bool = flag(False)
    weight_decay: float = non_negative(5e-4)

    problems = problems


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Hyperparameters of `torch.optim.Adam` and `AdamW`."""

    lr: float = positive(1e-3)
    betas: tuple[float, float] = fractions((0.9, 0.999))
    eps: float = positive(1e-8)
    weight_decay: float = non_negative(5e-4)

    problems = problems


@dataclass(frozen=True)
class Entry:
    """A registered optimizer.

    Attributes:
        optimizer: Called with the model (ours) or its parameters (torch's) and the hyperparameters.
        kinds: Dataclasses that hold its hyperparameters between them.
        preset: Hyperparameters that the name fixes or whose default it changes.
        numerics: Version of its arithmetic.
    """

    optimizer: Callable[..., Optimizer]
    kinds: tuple[type, ...]
    preset: Mapping[str, Any] = field(default_factory=dict)
    numerics: int = 1


def _ours(optimizer: type[Preconditioned], **preset: Any) -> Entry:
    algorithm = optimizer.algorithm_type
    return Entry(optimizer, (optimizer.rule_type, algorithm), preset, algorithm.NUMERICS)


def _torch(optimizer: Callable[..., Optimizer], kind: type, **preset: Any) -> Entry:
    def build_from_model(model: nn.Module, **hyperparameters: Any) -> Optimizer:
        return optimizer([p for p in model.parameters() if p.requires_grad], **hyperparameters)

    return Entry(build_from_model, (kind,), preset)


REGISTRY: dict[str, Entry] = {
    "sgd": _torch(torch.optim.SGD, SGD),
    "adam": _torch(torch.optim.Adam, Adam),
    "adamw": _torch(torch.optim.AdamW, Adam, weight_decay=0.05),
    "nysact-s": _ours(NysAct, sketch="subcolumn"),
    "nysact-g": _ours(NysAct, sketch="gaussian"),
    "foof": _ours(FOOF),
}


def available() -> list[str]:
    """Names of the registered optimizers."""
    return list(REGISTRY)


def lookup(name: str) -> Entry:
    """The entry of an optimizer.

    Raises:
        HyperparameterError: Unknown name; the message names the nearest and all known ones.
    """
    if name not in REGISTRY:
        raise HyperparameterError(f'optimizer = "{name}": unknown.{nearest(name, REGISTRY)}')
    return REGISTRY[name]


def defaults(name: str) -> dict[str, Any]:
    """Every hyperparameter of an optimizer with its default."""
    entry = lookup(name)
    fields = {f.name: f.default for kind in entry.kinds for f in dataclasses.fields(kind)}
    return fields | dict(entry.preset)


def check(name: str, hyperparameters: Mapping[str, Any], model: nn.Module | None = None) -> list[str]:
    """One line for each hyperparameter that is unknown, out of range, or does not fit the model if one is given."""
    entry = lookup(name)
    if wrong := unknown(hyperparameters, defaults(name)):
        return wrong
    try:
        made = make(*entry.kinds, values={**entry.preset, **hyperparameters})
    except HyperparameterError as error:
        return str(error).splitlines()
    shapes = {layer.name: layer.shape for layer in find_layers(model)} if model is not None else {}
    algorithms = [config for config in made if isinstance(config, Algorithm)]
    return [line for config in algorithms for line in config.model_problems(shapes)] if shapes else []


def build(name: str, model: nn.Module, **hyperparameters: Any) -> Optimizer:
    """An optimizer for a model by its registered name.

    Args:
        name: One of `available()`.
        model: The model to train.
        **hyperparameters: Set differently from `defaults(name)`.

    Raises:
        HyperparameterError: Unknown name, or unknown or wrong hyperparameters: all of them, with their ranges.
    """
    if wrong := check(name, hyperparameters):
        raise HyperparameterError("\n".join(wrong))
    entry = lookup(name)
    return entry.optimizer(model, **{**defaults(name), **hyperparameters})
