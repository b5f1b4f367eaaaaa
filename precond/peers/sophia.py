"""Sophia-H: the momentum, divided by an estimate of the diagonal of the Hessian and clipped."""

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
class SophiaH(Hyperparameters):
    """Hyperparameters of Sophia-H.

    A step changes each weight by -lr x clip(m / max(h, eps), -bound, bound), where m and h are the
    moving averages of the gradients and of the estimates z * (H z) of the diagonal of H.

    Attributes:
        lr: Learning rate.
        betas: Weights of the old values in m and h.
        bound: The largest change of a weight, as a multiple of lr.
        eps: The smallest divisor. It replaces h where h is smaller, for example negative.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        interval: Steps between updates of h.
        seed: Seed of the random signs z.
    """

    lr: float | Tensor = learning_rate(0.06)
    betas: tuple[float, float] = fractions((0.96, 0.99))
    bound: float = positive(0.01)
    eps: float = positive(1e-12)
    weight_decay: float = non_negative(0.0)
    interval: int = count(10)
    seed: int = count(0, low=0)


CARD = Card(
    paper="Liu et al., ICLR 2024",
    cost="1 HVP/interval + 10D",
    memory="D",
    deviations="as in pytorch-optimizer: a bound on the step in place of gamma; signs instead of "
    "normal numbers",
    unsupported=hessian.UNSUPPORTED,
)


def _define(package: Any) -> Any:
    class SophiaHPeer(HutchinsonOptimizer, package.SophiaH):
        """Sophia-H. `backward(loss)` estimates the diagonal of the Hessian at every interval."""

        NAME = "Sophia-H"
        LIBRARY = package.SophiaH
        FIXED = ("interval", "seed")
        BUFFERS = ("momentum", "hessian_moment")

        RENAMED = {"bound": "p"}

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = self._renamed(vars(SophiaH(**hyperparameters)))
            fixed = {name: settings.pop(name) for name in self.FIXED}
            self._added_defaults = {**fixed, "step": 0}
            super().__init__(params, **settings, **{"update_period": fixed["interval"]})

        @property
        def _due(self) -> bool:
            return self.param_groups[0]["step"] % self.update_period == 0

    return SophiaHPeer


PEER = Peer("Sophia-H", SophiaH, CARD, _define)
