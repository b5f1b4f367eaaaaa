"""AdamW of the directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from precond.hyperparameters import fractions, learning_rate, non_negative, positive
from precond.rules.base import (
    Directed,
    ParameterState,
    Rule,
    adam_step,
    chunks,
    decay_weights,
    new_moments,
)


@dataclass(frozen=True, kw_only=True)
class AdamRule(Rule):
    """AdamW: w <- (1 - lr weight_decay) w - lr m / (sqrt(v) + eps).

    D is the direction of a preconditioned parameter, and the gradient of any other parameter. m and
    v are the moving averages of D and D^2, divided by 1 - beta^t as in `torch.optim.AdamW`.

    Attributes:
        lr: Learning rate.
        betas: Weights of the old values in the averages of D and D^2.
        eps: Added to the root of v. It does not depend on the damping, although the directions are
            about 1 / damping times as long as the gradients.
        weight_decay: Decoupled weight decay.
    """

    COST: ClassVar[str] = "12D"
    MEMORY: ClassVar[str] = "D"

    lr: float | Tensor = learning_rate(1e-3, symbol="eta")
    betas: tuple[float, float] = fractions((0.9, 0.999))
    eps: float = positive(1e-8)
    weight_decay: float = non_negative(0.05)

    def new_buffers(
        self, group: Mapping[str, Any], parameter: Tensor, layer: bool
    ) -> dict[str, Tensor]:
        """Return the moments of a parameter (see `Rule.new_buffers`)."""
        return new_moments(parameter)

    def descend(
        self, group: dict[str, Any], layers: Directed, others: Directed, state: ParameterState
    ) -> None:
        """Update one parameter group in place (see `Rule.descend`)."""
        options = {name: group[name] for name in ("lr", "betas", "eps")}
        for params, directions in chunks(layers[0] + others[0], layers[1] + others[1]):
            decay_weights(params, group["lr"], group["weight_decay"])
            adam_step(params, directions, state, **options)
