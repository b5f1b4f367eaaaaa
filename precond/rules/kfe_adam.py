"""The update rule of STEVE, whose directions contain the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from precond.hyperparameters import learning_rate, non_negative
from precond.rules.base import (
    Directed,
    ParameterState,
    Rule,
    adam_step,
    decay_weights,
    move,
    new_moments,
)


@dataclass(frozen=True, kw_only=True)
class KFEAdamRule(Rule):
    """The rule of STEVE: w <- (1 - lr weight_decay) w - D for layers, where D contains lr.

    All other parameters are updated by Adam, or by SGD without momentum if `fallback` is "sgd". The
    rule reads the hyperparameters `fallback`, `betas` and `eps` of the algorithm.

    Attributes:
        lr: Learning rate.
        weight_decay: Decoupled weight decay, as in AdamW.
    """

    CONTAINS_LR: ClassVar[bool] = True

    lr: float | Tensor = learning_rate(1e-3, symbol="eta")
    weight_decay: float = non_negative(0.0)

    def new_buffers(
        self, group: Mapping[str, Any], parameter: Tensor, layer: bool
    ) -> dict[str, Tensor]:
        """Return the moments of Adam; layers do not use them (see `Rule.new_buffers`)."""
        return {} if layer or group["fallback"] == "sgd" else new_moments(parameter)

    def descend(
        self, group: dict[str, Any], layers: Directed, others: Directed, state: ParameterState
    ) -> None:
        """Update one parameter group in place (see `Rule.descend`)."""
        params, gradients = others
        decay_weights(layers[0] + params, group["lr"], group["weight_decay"])
        if layers[0]:
            torch._foreach_sub_(*layers)
        if params and group["fallback"] == "sgd":
            move(params, gradients, group["lr"])
        elif params:
            betas, eps = group["betas"], group["eps"]
            adam_step(params, gradients, state, lr=group["lr"], betas=betas, eps=eps)
