"""AdaHessian: Adam with an estimate of the diagonal of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precond import hessian
from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    count,
    fractions,
    learning_rate,
    non_negative,
    positive,
)
from precond.peers.base import Peer
from precond.peers.hutchinson import HutchinsonOptimizer


@dataclass(frozen=True, kw_only=True)
class AdaHessian(Hyperparameters):
    """Hyperparameters of AdaHessian.

    Attributes:
        lr: Learning rate.
        betas: Weights of the old values in the means of gradients and of squared Hessian diagonals.
        eps: Added to the square roots.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        seed: Seed of the random signs.
    """

    lr: float | Tensor = learning_rate(0.15)
    betas: tuple[float, float] = fractions((0.9, 0.999))
    eps: float = positive(1e-4)
    weight_decay: float = non_negative(0.0)
    seed: int = count(0, low=0)


CARD = Card(
    paper="Yao et al., AAAI 2021",
    cost="1 HVP + O(D)",
    memory="2D",
    deviations="as in pytorch-optimizer: no averaging over convolution kernels; "
    "decoupled weight decay",
    unsupported=hessian.UNSUPPORTED,
)


def _define(package: Any) -> Any:
    class AdaHessianPeer(HutchinsonOptimizer, package.AdaHessian):
        """AdaHessian. `backward(loss)` estimates the diagonal of the Hessian with seeded signs."""

        NAME = "AdaHessian"
        LIBRARY = package.AdaHessian
        FIXED = ("seed",)
        BUFFERS = ("exp_avg", "exp_hessian_diag_sq")

        def __init__(self, params: Any, **hyperparameters: Any):
            super().__init__(params, **{"step": 0, **vars(AdaHessian(**hyperparameters))})

    return AdaHessianPeer


PEER = Peer("AdaHessian", AdaHessian, CARD, _define)
