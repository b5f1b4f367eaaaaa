"""Shampoo, without grafting and without an interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import Hyperparameters, learning_rate, non_negative, positive
from precond.peers.base import Peer, StartsAfterInitialisation, empty
from precond.standalone import NO_COMPLEX


@dataclass(frozen=True, kw_only=True)
class Shampoo(Hyperparameters):
    """Hyperparameters of Shampoo.

    Shampoo computes its matrix roots at each step; `docs/algorithms.md` explains why.

    Attributes:
        lr: Learning rate.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        eps: The statistics start at eps I.
    """

    lr: float | Tensor = learning_rate(0.1)
    weight_decay: float = non_negative(0.0)
    eps: float = positive(1e-6)


CARD = Card(
    paper="Gupta, Koren and Singer, ICML 2018",
    cost="2op(o+p) + ~22(o^3+p^3) + 2op(o+p)",
    memory="2(o^2+p^2)",
    deviations="as in pytorch-optimizer: statistics are summed; no grafting, no momentum",
    unsupported=NO_COMPLEX,
)


def _define(package: Any) -> Any:
    class ShampooPeer(StartsAfterInitialisation, package.Shampoo):
        """Shampoo on copies of the gradients, because the package changes gradients in place."""

        NAME = "Shampoo"
        LIBRARY = package.Shampoo
        CHANGES_GRADIENTS = True

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = Shampoo(**hyperparameters)
            options: dict[str, Any] = {"weight_decouple": True, "matrix_eps": settings.eps}
            options |= {"lr": settings.lr, "weight_decay": settings.weight_decay}
            super().__init__(params, **options)

        def _unsupported_kind(self, parameter: Tensor) -> str | None:
            return super()._unsupported_kind(parameter) or empty(parameter)

    return ShampooPeer


PEER = Peer("Shampoo", Shampoo, CARD, _define)
