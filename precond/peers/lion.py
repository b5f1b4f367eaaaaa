"""Lion: the sign of a momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import Hyperparameters, fractions, learning_rate, non_negative
from precond.peers.base import LibraryOptimizer, Peer
from precond.standalone import NO_COMPLEX


@dataclass(frozen=True, kw_only=True)
class Lion(Hyperparameters):
    """Hyperparameters of Lion.

    Attributes:
        lr: Learning rate, the change of each weight in a step.
        betas: Weights of the old momentum in the update and in the new momentum.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
    """

    lr: float | Tensor = learning_rate(1e-3)
    betas: tuple[float, float] = fractions((0.9, 0.99))
    weight_decay: float = non_negative(0.0)


CARD = Card(
    paper="Chen et al., NeurIPS 2023",
    cost="9D",
    memory="none",
    deviations="lr 0.001 in place of 0.0001",
    unsupported=NO_COMPLEX,
)


def _define(package: Any) -> Any:
    class LionPeer(LibraryOptimizer, package.Lion):
        """Lion with the checks of this project."""

        NAME = "Lion"
        LIBRARY = package.Lion

        def __init__(self, params: Any, **hyperparameters: Any):
            super().__init__(params, **vars(Lion(**hyperparameters)))

    return LionPeer


PEER = Peer("Lion", Lion, CARD, _define)
