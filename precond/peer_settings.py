"""The hyperparameters and the cards of the optimizers in `peers.py`."""

from __future__ import annotations

from dataclasses import dataclass

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


CARDS = {
    Shampoo: Card(
        paper="Gupta, Koren and Singer, ICML 2018",
        cost="2op(o+p) + ~22(o^3+p^3) + 2op(o+p)",
        memory="2(o^2+p^2)",
        deviations="as in pytorch-optimizer: statistics are summed; no grafting, no momentum",
        unsupported=NO_COMPLEX,
    ),
    SOAP: Card(
        paper="Vyas et al., ICLR 2025",
        cost="8op(o+p) + ~(2+4/3)(o^3+p^3)/interval",
        memory="2(o^2+p^2) + 2op",
        deviations="as in pytorch-optimizer: the first step only initialises the statistics; "
        "one factor per axis of a kernel",
        unsupported=NO_COMPLEX,
    ),
    AdaHessian: Card(
        paper="Yao et al., AAAI 2021",
        cost="1 HVP + O(D)",
        memory="2D",
        deviations="as in pytorch-optimizer: no averaging over convolution kernels; "
        "decoupled weight decay",
        unsupported=hessian.UNSUPPORTED,
    ),
}
