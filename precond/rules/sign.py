"""The sign of the momentum of the directions (Bernstein et al., ICML 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from precond.hyperparameters import fraction, learning_rate, non_negative
from precond.rules.base import (
    Directed,
    ParameterState,
    Rule,
    average,
    chunks,
    decay_weights,
    move,
)


@dataclass(frozen=True, kw_only=True)
class SignRule(Rule):
    """Signum: m <- momentum m + (1 - momentum) D; w <- (1 - lr weight_decay) w - lr sign(m).

    D is the direction of a preconditioned parameter, and the gradient of any other parameter. With
    momentum 0, this is signSGD. The real and the imaginary part of a complex parameter have
    separate signs.

    Attributes:
        lr: Learning rate, the change of each weight in a step.
        momentum: Weight of the old value in the average m.
        weight_decay: Decoupled weight decay.
    """

    COST: ClassVar[str] = "5D"
    MEMORY: ClassVar[str] = "none"

    lr: float | Tensor = learning_rate(1e-3, symbol="eta")
    momentum: float = fraction(0.9, symbol="mu")
    weight_decay: float = non_negative(0.05)

    def new_buffers(
        self, group: Mapping[str, Any], parameter: Tensor, layer: bool
    ) -> dict[str, Tensor]:
        """Return the momentum of a parameter (see `Rule.new_buffers`)."""
        return {"momentum_buffer": torch.zeros_like(parameter)}

    def descend(
        self, group: dict[str, Any], layers: Directed, others: Directed, state: ParameterState
    ) -> None:
        """Update one parameter group in place (see `Rule.descend`)."""
        for params, directions in chunks(layers[0] + others[0], layers[1] + others[1]):
            decay_weights(params, group["lr"], group["weight_decay"])
            averages = average(params, directions, group["momentum"], state)
            signs = torch._foreach_sign([_real(tensor) for tensor in averages])
            move([_real(p) for p in params], signs, group["lr"])


def _real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as a view with real numbers, and a real tensor unchanged."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
