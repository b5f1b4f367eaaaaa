"""One line per optimizer; the only place where algorithms and the torch optimizer meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from precond import peers
from precond.algorithm import Algorithm
from precond.algorithms import ekfac, eva, foof, kfac, nysact, sketchysgd, steve
from precond.algorithms.sketchysgd import SketchySGD
from precond.card import Card
from precond.hyperparameters import (
    HyperparameterError,
    flag,
    fraction,
    fractions,
    nearest,
    non_negative,
    positive,
    problems,
    split,
)
from precond.layers import find_layers
from precond.optimizer import Preconditioned
from precond.rules import KFEAdamRule


class FOOF(Preconditioned, algorithm=foof.FOOF):
    """SGD preconditioned by the damped inverse of the input covariance (Benzing 2022); see `algorithms/foof.py`."""


class NysAct(Preconditioned, algorithm=nysact.NysAct):
    """SGD preconditioned by a Nystrom approximation of that covariance; see `algorithms/nysact.py`."""


class KFAC(Preconditioned, algorithm=kfac.KFAC):
    """SGD preconditioned by Kronecker-factored curvature (Martens and Grosse 2015); see `algorithms/kfac.py`."""


class Eva(Preconditioned, algorithm=eva.Eva):
    """SGD preconditioned by rank-one curvature (Zhang et al. 2023); see `algorithms/eva.py`."""


class EKFAC(Preconditioned, algorithm=ekfac.EKFAC):
    """SGD preconditioned by second moments in KFAC's eigenbasis (George et al. 2018); see `algorithms/ekfac.py`."""


class STEVE(Preconditioned, algorithm=steve.STEVE, rule=KFEAdamRule):
    """Adam in KFAC's eigenbasis; see `algorithms/steve.py`."""


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
        optimizer: Called with the model and the hyperparameters.
        kinds: Dataclasses that hold its hyperparameters between them.
        preset: Hyperparameters that the name fixes or whose default it changes.
        numerics: Version of its arithmetic.
        card: What is printed about it.
        package: What must be installed for it, beyond torch.
        plugin: SHA-256 of the file of a user that registered it, or None.
    """

    optimizer: Callable[..., Optimizer]
    kinds: tuple[type, ...]
    preset: Mapping[str, Any] = field(default_factory=dict)
    numerics: int = 1
    card: Card | None = None
    package: str | None = None
    plugin: str | None = None


def _ours(optimizer: type[Preconditioned], **preset: Any) -> Entry:
    algorithm = optimizer.algorithm_type
    return Entry(optimizer, (optimizer.rule_type, algorithm), preset, algorithm.NUMERICS, algorithm.CARD)


def _torch(optimizer: Callable[..., Optimizer], kind: type, card: Card, **preset: Any) -> Entry:
    def build_from_model(model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any) -> Optimizer:
        trainable = [p for p in model.parameters() if p.requires_grad]
        return optimizer(trainable if params is None else params, **hyperparameters)

    return Entry(build_from_model, (kind,), preset, card=card)


def _peer(kind: type) -> Entry:
    return Entry(partial(peers.build, kind), (kind,), card=peers.CARDS[kind], package=peers.PACKAGE)


_SGD = Card(paper="Robbins and Monro 1951, Polyak 1964", cost="4D", memory="none")
_ADAM = Card(paper="Kingma and Ba, ICLR 2015", cost="12D", memory="D")
_ADAMW = Card(paper="Loshchilov and Hutter, ICLR 2019", cost="12D", memory="D")


REGISTRY: dict[str, Entry] = {
    "sgd": _torch(torch.optim.SGD, SGD, _SGD),
    "adam": _torch(torch.optim.Adam, Adam, _ADAM),
    "adamw": _torch(torch.optim.AdamW, Adam, _ADAMW, weight_decay=0.05),
    "nysact-s": _ours(NysAct, sketch="subcolumn"),
    "nysact-g": _ours(NysAct, sketch="gaussian"),
    "foof": _ours(FOOF),
    "kfac": _ours(KFAC),
    "eva": _ours(Eva),
    "ekfac": _ours(EKFAC),
    "steve": _ours(STEVE),
    "sketchysgd": Entry(SketchySGD, (sketchysgd.Settings,), numerics=sketchysgd.NUMERICS, card=sketchysgd.CARD),
    "shampoo": _peer(peers.Shampoo),
    "soap": _peer(peers.SOAP),
    "adahessian": _peer(peers.AdaHessian),
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
    made, wrong = split(*entry.kinds, values={**entry.preset, **hyperparameters})
    shapes = {layer.name: layer.shape for layer in find_layers(model)} if model is not None else {}
    if shapes:
        algorithms = [config for config in made if isinstance(config, Algorithm) and not config.problems()]
        wrong += [line for algorithm in algorithms for line in algorithm.model_problems(shapes)]
    return wrong


def build(name: str, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any) -> Optimizer:
    """An optimizer for a model by its registered name.

    Args:
        name: One of `available()`.
        model: The model to train.
        params: Parameter groups as `torch.optim` takes them. Default: all trainable parameters, in one group.
        **hyperparameters: Set differently from `defaults(name)`.

    Raises:
        HyperparameterError: Unknown name, or unknown or wrong hyperparameters: all of them, with their ranges.
    """
    if wrong := check(name, hyperparameters):
        raise HyperparameterError("\n".join(wrong))
    entry = lookup(name)
    return entry.optimizer(model, params=params, **{**defaults(name), **hyperparameters})
