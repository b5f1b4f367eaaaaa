"""The registry of optimizers by name: defaults, checks and construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, wraps
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
from precond.rules import DEFAULT, RULES

SEPARATOR = "+"  # between the names of an optimizer and of its update rule
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
    """

    optimizer: Callable[..., Optimizer]
    kinds: tuple[type, ...]
    preset: Mapping[str, Any] = field(default_factory=dict)
    numerics: int = 1
    card: Card | None = None
    package: str | None = None
    plugin: str | None = None


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


def _peer(kind: type) -> Entry:
    return Entry(partial(peers.build, kind), (kind,), card=peers.CARDS[kind], package=peers.PACKAGE)


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
    "kbfgs": _preconditioned(KBFGS),
    "kbfgs-l": _preconditioned(KBFGSL),
    "eva": _preconditioned(Eva),
    "ekfac": _preconditioned(EKFAC),
    "steve": _preconditioned(STEVE),
    "sketchysgd": _standalone(SketchySGD, sketchysgd),
    "ggt": _standalone(GGT, ggt),
    "mfac": _standalone(MFAC, mfac),
    "shampoo": _peer(peers.Shampoo),
    "soap": _peer(peers.SOAP),
    "adahessian": _peer(peers.AdaHessian),
}


def available() -> list[str]:
    """Return the names of the registered optimizers."""
    return list(REGISTRY)


def lookup(name: str) -> Entry:
    """Return the entry of an optimizer, such as `nysact-s`, or of `nysact-s+orthogonal`.

    The second name is an optimizer that preconditions layers, followed by an update rule.

    Raises:
        HyperparameterError: The name is unknown, or the rule cannot follow the optimizer. The
            message has one line with the known names.
    """
    if error := name_error(name):
        raise HyperparameterError(error)
    if name in REGISTRY:
        return REGISTRY[name]
    base, _, rule = name.partition(SEPARATOR)
    return _composed(REGISTRY[base], rule)


def name_error(name: str, advice: str = "") -> str | None:
    """Return one line if a name is not that of an optimizer, else None.

    Args:
        name: The name.
        advice: A text that is appended to the line of a name that resembles no known name.
    """
    if name in REGISTRY:
        return None
    base, separator, rule = name.partition(SEPARATOR)
    text = f'optimizer = "{name}"'
    if not separator or base not in REGISTRY:
        return f"{text}: unknown.{nearest(base, REGISTRY, advice)}"
    if base not in (known := composable()):
        return f"{text}: no update rule can follow {base}. Use {base}, or one of {', '.join(known)}"
    if rule == DEFAULT:
        return f"{text}: {DEFAULT} is the update rule of {base}. Use {base}"
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


def _composed(entry: Entry, rule: str) -> Entry:
    """Return the entry of an optimizer with another update rule."""
    kind = RULES[rule]
    card = entry.card
    if card is not None:
        card = replace(card, cost=f"{card.cost} + {kind.COST}")
        if kind.MEMORY != "none":
            card = replace(card, memory=f"{card.memory} + {kind.MEMORY}")
    return replace(
        entry,
        optimizer=partial(entry.optimizer, rule=rule),
        kinds=(kind, *entry.kinds[1:]),
        numerics=100 * entry.numerics + kind.NUMERICS,  # a change of either changes the keys
        card=card,
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
        name: One of `available()`, or the name of an optimizer that preconditions layers and that
            of an update rule, such as `nysact-s+orthogonal`.
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
