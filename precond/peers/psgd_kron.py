"""PSGD with Kronecker-factored preconditioners, which are fitted with random vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    count,
    fraction,
    learning_rate,
    non_negative,
    optional,
    probability,
)
from precond.peers.base import Peer, StartsAfterInitialisation, empty
from precond.peers.seeded import Generators
from precond.scaling import evaluate
from precond.standalone import NO_COMPLEX


@dataclass(frozen=True, kw_only=True)
class PSGDKron(Hyperparameters):
    """Hyperparameters of PSGD-Kron.

    Attributes:
        lr: Learning rate.
        momentum: Weight of the old value in the momentum.
        weight_decay: Each step shrinks the weights by the factor 1 - lr x weight_decay.
        update_probability: Fraction of the steps that update the preconditioner. None: 1 in the
            first 500 steps, then an exponential decay to 0.03.
        seed: Seed of the random vectors.
    """

    lr: float | Tensor = learning_rate(3e-3)
    momentum: float = fraction(0.9)
    weight_decay: float = non_negative(0.0)
    update_probability: float | None = optional(probability(None))  # type: ignore[arg-type]
    seed: int = count(0, low=0)


CARD = Card(
    paper="Li, IEEE TNNLS 2018; Pooladzandi and Li 2024",
    cost="8op(o+p), and ~6op(o+p) + 2(o^3+p^3) in a step that updates the preconditioner",
    memory="o^2+p^2",
    deviations="the weight decay applies to vectors, too; the preconditioner is float32",
    unsupported=NO_COMPLEX,
)


@torch.no_grad()
def _decay_vectors(groups: Sequence[Mapping[str, Any]]) -> None:
    """Decay the parameters with fewer than 2 axes, which the package does not decay."""
    for group in groups:
        for p in group["params"]:
            if p.grad is not None and p.dim() < 2 and group["weight_decay"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])


def _define(package: Any) -> Any:
    class PSGDKronPeer(StartsAfterInitialisation, package.Kron):
        """PSGD-Kron with random vectors that depend only on the seed and the step."""

        NAME = "PSGD-Kron"
        LIBRARY = package.Kron
        FIXED = ("seed",)
        SUMS = "momentum_buffer"
        COUNTERS = ("step", "update_counter")
        OWN_DTYPES = ("Q",)  # float32, whatever the dtype of the parameter

        RENAMED = {"update_probability": "pre_conditioner_update_probability"}

        def __init__(self, params: Any, **hyperparameters: Any):
            settings = self._renamed(vars(PSGDKron(**hyperparameters)))
            self._added_defaults = {"seed": settings.pop("seed"), "step": 0, "update_counter": 0}
            super().__init__(params, **settings)

        def _unsupported_kind(self, parameter: Tensor) -> str | None:
            return super()._unsupported_kind(parameter) or empty(parameter)

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = evaluate(closure)
            self._note_initialisation()
            first = self.param_groups[0]
            parameters = [p for group in self.param_groups for p in group["params"]]
            for p, state in self.state.items():  # the model may have been converted
                if state:
                    state["momentum_buffer"] = state["momentum_buffer"].to(p.dtype)
            _decay_vectors(self.param_groups)
            with Generators(first["seed"], first["step"], parameters).exchanged():
                self._library_step()
            return loss

    return PSGDKronPeer


PEER = Peer("PSGD-Kron", PSGDKron, CARD, _define)
