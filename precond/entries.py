"""The entries of the registry: how an optimizer is built, with its hyperparameters and its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from precond import peers
from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    flag,
    fraction,
    fractions,
    learning_rate,
    non_negative,
    positive,
)
from precond.optimizer import Preconditioned
from precond.peers import library
from precond.rules import RULES


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
        version: The version of the package, if trial keys contain it, or None.
        errors: A function of the hyperparameters and of the model (or None), which returns more
            errors. It is called only if the other checks find none. None: no such function.
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
        """True for an optimizer of a plugin, and for `pytorch-optimizer:NAME`."""
        return self.plugin is not None or self.version is not None


def preconditioned(optimizer: type[Preconditioned], **preset: Any) -> Entry:
    """Return the entry of an optimizer that preconditions layers."""
    algorithm = optimizer.algorithm_type
    kinds = (optimizer.rule_type, algorithm)
    return Entry(optimizer, kinds, preset, algorithm.NUMERICS, algorithm.CARD)


def standalone(optimizer: type[Optimizer], module: Any) -> Entry:
    """Return the entry of an optimizer with `Settings`, `NUMERICS` and `CARD` in its module."""
    return Entry(optimizer, (module.Settings,), numerics=module.NUMERICS, card=module.CARD)


def from_torch(optimizer: Callable[..., Optimizer], kind: type, card: Card, **preset: Any) -> Entry:
    """Return the entry of one of torch's optimizers, which takes parameters."""

    def build_from_model(
        model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
    ) -> Optimizer:
        trainable = [p for p in model.parameters() if p.requires_grad]
        return optimizer(trainable if params is None else params, **hyperparameters)

    return Entry(build_from_model, (kind,), preset, card=card)


def of_peer(peer: peers.Peer) -> Entry:
    """Return the entry of an optimizer of another package."""
    return Entry(peer.build, (peer.settings,), {}, peer.numerics, peer.card, peers.PACKAGE)


SGD_CARD = Card(paper="Robbins and Monro 1951, Polyak 1964", cost="4D", memory="none")
ADAM_CARD = Card(paper="Kingma and Ba, ICLR 2015", cost="12D", memory="D")
ADAMW_CARD = Card(paper="Loshchilov and Hutter, ICLR 2019", cost="12D", memory="D")


def composed(entry: Entry, rule: str) -> Entry:
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


@cache
def of_library(name: str) -> Entry:
    """Return the entry of `pytorch-optimizer:NAME`."""
    entry = library.find(name)
    return Entry(
        entry.build,
        (entry.settings,),
        package=peers.PACKAGE,
        version=library.version(),
        errors=entry.errors,
    )
