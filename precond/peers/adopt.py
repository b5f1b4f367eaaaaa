"""ADOPT: Adam whose gradient is divided by the second moment of the earlier gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    fractions,
    learning_rate,
    non_negative,
    positive,
)
from precond.peers.base import Peer, StartsAfterInitialisation
from precond.standalone import NO_COMPLEX


@dataclass(frozen=True, kw_only=True)
class ADOPT(Hyperparameters):
    """Hyperparameters of ADOPT.

    The gradient, divided by the root of the second moment of the earlier gradients, is clipped at
    step^(1/4). The first step only initialises the second moment.

    Attributes:
        lr: Learning rate.
        betas: Weights of the old values in the means of the divided and of the squared gradients.
        eps: The smallest divisor.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
    """

    lr: float | Tensor = learning_rate(1e-3)
    betas: tuple[float, float] = fractions((0.9, 0.9999))
    eps: float = positive(1e-6)
    weight_decay: float = non_negative(0.0)


CARD = Card(
    paper="Taniguchi et al., NeurIPS 2024",
    cost="14D",
    memory="D",
    deviations="decoupled weight decay",
    unsupported=NO_COMPLEX,
)


def bound(step: int) -> float:
    """Return the bound on the divided gradients."""
    return step**0.25


def _define(package: Any) -> Any:
    class ADOPTPeer(StartsAfterInitialisation, package.ADOPT):
        """ADOPT with decoupled weight decay."""

        NAME = "ADOPT"
        LIBRARY = package.ADOPT
        SUMS = "exp_avg_sq"

        def __init__(self, params: Any, **hyperparameters: Any):
            options = {"weight_decouple": True, "clip_lambda": bound}  # a lambda cannot be pickled
            super().__init__(params, **vars(ADOPT(**hyperparameters)), **options)

        def _library_step(self, **arguments: Any) -> None:
            first = [group for group in self.param_groups if not group.get("step")]
            decays = [group["weight_decay"] for group in first]
            try:
                for group in first:  # as in the released code, the first step changes no weight
                    group["weight_decay"] = 0.0
                super()._library_step(**arguments)
            finally:
                for group, decay in zip(first, decays, strict=True):
                    group["weight_decay"] = decay

    return ADOPTPeer


PEER = Peer("ADOPT", ADOPT, CARD, _define)
