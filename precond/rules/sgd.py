"""SGD with momentum, the default update rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from precond.hyperparameters import flag, fraction, learning_rate, non_negative
from precond.rules.base import Directed, ParameterState, Rule, buffer, chunks, decay_weights, move


@dataclass(frozen=True, kw_only=True)
class SGDRule(Rule):
    """SGD: d = D + weight_decay w; m <- momentum m + d; w <- w - lr m.

    D is the direction of a preconditioned parameter, and the gradient of any other parameter. With
    Nesterov momentum, the last step is w <- w - lr (d + momentum m).

    Attributes:
        lr: Learning rate.
        momentum: Heavy-ball momentum, without dampening.
        nesterov: Use Nesterov momentum, as in `torch.optim.SGD`. The released code of NysAct
            does not use it in the first step.
        weight_decay: Coefficient of the weight decay, which is not preconditioned.
        decoupled: Multiply the weights by 1 - lr x weight_decay, as AdamW does, instead of adding
            the decay to the direction.
    """

    COST: ClassVar[str] = "4D"
    MEMORY: ClassVar[str] = "none"

    lr: float | Tensor = learning_rate(0.1, symbol="eta")
    momentum: float = fraction(0.9, symbol="mu")
    nesterov: bool = flag(False)
    weight_decay: float = non_negative(5e-4)
    decoupled: bool = flag(False)

    def problems(self) -> list[str]:
        """Return one line for each value out of range."""
        errors = super().problems()
        if self.nesterov is True and self.momentum == 0:
            errors.append("nesterov = True: needs momentum > 0")
        return errors

    def new_buffers(
        self, group: Mapping[str, Any], parameter: Tensor, layer: bool
    ) -> dict[str, Tensor]:
        """Return the momentum of a parameter (see `Rule.new_buffers`)."""
        return {"momentum_buffer": torch.zeros_like(parameter)} if group["momentum"] else {}

    def descend(
        self, group: dict[str, Any], layers: Directed, others: Directed, state: ParameterState
    ) -> None:
        """Update one parameter group in place (see `Rule.descend`)."""
        decay = 0.0 if group["decoupled"] else group["weight_decay"]
        for params, directions in chunks(*layers):
            if decay:
                torch._foreach_add_(directions, params, alpha=decay)
            _step(group, params, directions, state)
        for params, gradients in chunks(*others):
            decayed = torch._foreach_add(gradients, params, alpha=decay) if decay else gradients
            _step(group, params, list(decayed), state)


def _step(
    group: dict[str, Any], params: list[Tensor], directions: list[Tensor], state: ParameterState
) -> None:
    """Apply a decoupled decay, the momentum and the step; `directions` contain a coupled decay."""
    lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
    if group["decoupled"]:
        decay_weights(params, lr, decay)
    if momentum:
        buffers = [buffer(state, p, "momentum_buffer") for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, directions)
        gradients, directions = directions, buffers
        if group["nesterov"]:
            directions = list(torch._foreach_add(gradients, buffers, alpha=momentum))
    move(params, directions, lr)
