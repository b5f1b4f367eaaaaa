"""What happens to a direction after preconditioning: momentum, weight decay and the step itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from precond.hyperparameters import flag, fraction, non_negative, positive, problems

ParameterState = Mapping[Tensor, dict[str, Any]]


class Rule(Protocol):
    """An update rule: a frozen dataclass of the hyperparameters that parameter groups may change."""

    def problems(self) -> list[str]:
        """One line for each hyperparameter out of range."""
        ...

    def descend(
        self,
        group: dict[str, Any],
        layers: tuple[list[Tensor], list[Tensor]],
        others: tuple[list[Tensor], list[Tensor]],
        state: ParameterState,
    ) -> None:
        """Update one parameter group in place.

        Args:
            group: The group's current hyperparameters.
            layers: Preconditioned parameters and their directions; the directions may be overwritten.
            others: All other parameters and their gradients; the gradients must not be changed.
            state: Per-parameter buffers, tensors by name.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SGDRule:
    """SGD: d = D + weight_decay w; m <- momentum m + d; w <- w - lr m, for every parameter alike.

    Attributes:
        lr: Learning rate.
        momentum: Heavy ball, without dampening.
        nesterov: Step along d + momentum m instead of m.
        weight_decay: Decay, not preconditioned.
        decoupled: Shrink the weights by lr x weight_decay instead of adding the decay to the direction (AdamW).
    """

    lr: float = positive(0.1)  # eta
    momentum: float = fraction(0.9)  # mu
    nesterov: bool = flag(False)
    weight_decay: float = non_negative(5e-4)
    decoupled: bool = flag(False)

    def problems(self) -> list[str]:
        """One line for each value out of range."""
        wrong = problems(self)
        if self.nesterov is True and self.momentum == 0:
            wrong.append("nesterov = True: needs momentum > 0")
        return wrong

    def descend(
        self,
        group: dict[str, Any],
        layers: tuple[list[Tensor], list[Tensor]],
        others: tuple[list[Tensor], list[Tensor]],
        state: ParameterState,
    ) -> None:
        """Update one parameter group in place (see `Rule.descend`)."""
        params, directions = layers[0] + others[0], layers[1] + others[1]
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        if decay and group["decoupled"]:
            torch._foreach_mul_(params, 1 - lr * decay)
        elif decay:
            directions = list(torch._foreach_add(directions, params, alpha=decay))
        if momentum:
            buffers = [buffer(state, p, "momentum_buffer") for p in params]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, directions)
            directions = torch._foreach_add(directions, buffers, alpha=momentum) if group["nesterov"] else buffers
        torch._foreach_add_(params, directions, alpha=-lr)


def buffer(state: ParameterState, parameter: Tensor, name: str) -> Tensor:
    """A parameter's buffer, zeros at first."""
    if name not in state[parameter]:
        state[parameter][name] = torch.zeros_like(parameter)
    return state[parameter][name]
