"""The registry of optimizers by name: defaults, checks and construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond import peers
from precond.algorithm import Algorithm, Card
from precond.algorithms import ggt, mfac, sketchysgd
from precond.groups import require_model
from precond.hyperparameters import (
    HyperparameterError,
    Hyperparameters,
    flag,
    fraction,
    fractions,
    learning_rate,
    nearest,
    non_negative,
    positive,
    split,
)
from precond.layers import find_layers
from precond.optimizer import Preconditioned
from precond.optimizers import EKFAC, FOOF, GGT, KFAC, MFAC, SKFAC, STEVE, Eva, NysAct, SketchySGD
from precond.peers import library, muon

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class SGD(Hyperparameters):
    """Hyperparameters of `torch.optim.SGD`."""

    lr: float | Tensor = learning_rate(0.1)
    momentum: float = fraction(0.9)
    nesterov: bool = flag(False)
    weight_decay: float = non_negative(5e-4)


@dataclass(frozen=True, kw_only=True)
class Adam(Hyperparameters):
    """Hyperparameters of `torch.optim.Adam` and `AdamW`."""

    lr: float | Tensor = learning_rate(1e-3)
    betas: tuple[float, float] = fractions((0.9, 0.999))
    eps: float = positive(1e-8)
    weight_decay: float = non_negative(5e-4)


@dataclass(frozen=True)
class Entry:
    """A registered optimizer.

    Attributes:
        optimizer: A function of the model and the hyperparameters that builds the optimizer.
        kinds: The dataclasses of its hyperparameters.
        preset: Values that replace defaults of the dataclasses for this entry.
        numerics: Version of the optimizer's arithmetic (see `Algorithm.NUMERICS`).
        card: The text that `python -m precond` prints.
        package: The package that the optimizer needs in addition to torch, or None.
        plugin: SHA-256 of the plugin's code that builds the optimizer, or None.
        version: The version of the package, if it is a part of a trial's key, or None.
        errors: A function of the hyperparameters and the model, or None for no model, that returns
            further errors; it is called if the hyperparameters have no other errors.
    """

    optimizer: Callable[..., Optimizer]
    kinds: tuple[type, ...]
    preset: Mapping[str, Any] = field(default_factory=dict)
    numerics: int = 1
    card: Card | None = None
    package: str | None = None
    plugin: str | None = None
    version: str | None = None
    errors: Callable[[Mapping[str, Any], nn.Module | None], list[str]] | None = None

    @property
    def external(self) -> bool:
        """True if the optimizer is a plugin's or is found by its name in another package."""
        return self.plugin is not None or self.version is not None


def _preconditioned(optimizer: type[Preconditioned], **preset: Any) -> Entry:
    algorithm = optimizer.algorithm_type
    kinds = (optimizer.rule_type, algorithm)
    return Entry(optimizer, kinds, preset, algorithm.NUMERICS, algorithm.CARD)


def _standalone(optimizer: type[Optimizer], module: Any) -> Entry:
    return Entry(optimizer, (module.Settings,), numerics=module.NUMERICS, card=module.CARD)


def _from_torch(
    optimizer: Callable[..., Optimizer], kind: type, card: Card, **preset: Any
) -> Entry:
    def build_from_model(
        model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
    ) -> Optimizer:
        trainable = [p for p in model.parameters() if p.requires_grad]
        return optimizer(trainable if params is None else params, **hyperparameters)

    return Entry(build_from_model, (kind,), preset, card=card)


def _peer(peer: peers.Peer) -> Entry:
    return Entry(peer.build, (peer.settings,), {}, peer.numerics, peer.card, peers.PACKAGE)


_SGD = Card(paper="Robbins and Monro 1951, Polyak 1964", cost="4D", memory="none")
_ADAM = Card(paper="Kingma and Ba, ICLR 2015", cost="12D", memory="D")
_ADAMW = Card(paper="Loshchilov and Hutter, ICLR 2019", cost="12D", memory="D")


REGISTRY: dict[str, Entry] = {
    "sgd": _from_torch(torch.optim.SGD, SGD, _SGD),
    "adam": _from_torch(torch.optim.Adam, Adam, _ADAM),
    "adamw": _from_torch(torch.optim.AdamW, Adam, _ADAMW, weight_decay=0.05),
    "nysact-s": _preconditioned(NysAct, sketch="subcolumn"),
    "nysact-g": _preconditioned(NysAct, sketch="gaussian"),
    "foof": _preconditioned(FOOF),
    "kfac": _preconditioned(KFAC),
    "skfac": _preconditioned(SKFAC),
    "eva": _preconditioned(Eva),
    "ekfac": _preconditioned(EKFAC),
    "steve": _preconditioned(STEVE),
    "sketchysgd": _standalone(SketchySGD, sketchysgd),
    "ggt": _standalone(GGT, ggt),
    "mfac": _standalone(MFAC, mfac),
    **{name: _peer(peer) for name, peer in peers.PEERS.items()},
    "muon": Entry(muon.build, (muon.Settings,), numerics=muon.NUMERICS, card=muon.CARD),
}


def available() -> list[str]:
    """Return the names of the registered optimizers."""
    return list(REGISTRY)


def lookup(name: str) -> Entry:
    """Return the entry of an optimizer.

    Raises:
        HyperparameterError: The name is unknown, and the message lists all names; or an optimizer
            of another package cannot be used, and the message has the reason.
    """
    if error := name_error(name):
        raise HyperparameterError(error)
    if library.is_library_name(name):
        return _library_entry(library.canonical(name))
    return REGISTRY[name]


def name_error(name: str, advice: str = "") -> str | None:
    """Return one line if a name is not that of an optimizer, else None.

    Args:
        name: The name.
        advice: A text that is appended to the line of a name that resembles no known name.
    """
    if library.is_library_name(name):
        return library.name_error(name)
    if name in REGISTRY:
        return None
    return f'optimizer = "{name}": unknown.{nearest(name, REGISTRY, advice)}'


@cache
def _library_entry(name: str) -> Entry:
    """Return the entry of `pytorch-optimizer:NAME`."""
    entry = library.find(name)
    return Entry(
        entry.build,
        (entry.settings,),
        package=peers.PACKAGE,
        version=library.version(),
        errors=entry.errors,
    )


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
    name: str, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
) -> Optimizer:
    """Build an optimizer for a model by its registered name.

    Args:
        name: One of `available()`, or `pytorch-optimizer:NAME` for an optimizer of the package
            pytorch-optimizer.
        model: The model to train.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        **hyperparameters: Values that replace those of `defaults(name)`.

    Raises:
        HyperparameterError: The name is unknown, or hyperparameters are unknown or out of range.
            The message has one line for each error.
    """
    if errors := check(name, hyperparameters):
        raise HyperparameterError("\n".join(errors))
    entry = lookup(name)
    return entry.optimizer(model, params=params, **{**defaults(name), **hyperparameters})
