"""SOAP: Adam in the eigenbases of Shampoo's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    count,
    fractions,
    learning_rate,
    non_negative,
    positive,
)
from precond.peers.base import Peer, StartsAfterInitialisation
from precond.standalone import NO_COMPLEX


@dataclass(frozen=True, kw_only=True)
class SOAP(Hyperparameters):
    """Hyperparameters of SOAP.

    Attributes:
        lr: Learning rate.
        betas: Weights of the old values in the two moments; the statistics use the second weight.
        eps: Added to the square roots.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        interval: Steps between updates of the eigenbases.
    """

    lr: float | Tensor = learning_rate(3e-3)
    betas: tuple[float, float] = fractions((0.95, 0.95))
    eps: float = positive(1e-8)
    weight_decay: float = non_negative(0.01)
    interval: int = count(10)


CARD = Card(
    paper="Vyas et al., ICLR 2025",
    cost="8op(o+p) + ~(2+4/3)(o^3+p^3)/interval",
    memory="2(o^2+p^2) + 2op",
    deviations="as in pytorch-optimizer: the first step only initialises the statistics; "
    "one factor per axis of a kernel",
    unsupported=NO_COMPLEX,
)


def _define(package: Any) -> Any:
    class SOAPPeer(StartsAfterInitialisation, package.SOAP):
        """SOAP with this project's hyperparameter names."""

        NAME = "SOAP"
        LIBRARY = package.SOAP
        SUMS = "GG"  # the sums of the outer products of the gradients

        RENAMED = {"interval": "precondition_frequency"}

        def __init__(self, params: Any, **hyperparameters: Any):
            super().__init__(params, **self._renamed(vars(SOAP(**hyperparameters))))

    return SOAPPeer


PEER = Peer("SOAP", SOAP, CARD, _define)
