"""Update rules: momentum, weight decay, and the step along a preconditioned direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

from precond.hyperparameters import (
    Hyperparameters,
    flag,
    fraction,
    learning_rate,
    non_negative,
)

ParameterState = Mapping[Tensor, dict[str, Any]]
Directed = tuple[list[Tensor], list[Tensor]]  # parameters, and the direction of each


class Rule(Protocol):
    """An update rule: a dataclass of hyperparameters that each parameter group may override."""

    CONTAINS_LR: ClassVar[bool]  # True if the layers' directions already contain the learning rate

    def problems(self) -> list[str]:
        """Return one line for each hyperparameter out of range."""
        ...

    def new_buffers(
        self, group: Mapping[str, Any], parameter: Tensor, layer: bool
    ) -> dict[str, Tensor]:
        """Return the initial buffers of a parameter.

        They exist before the first step, so that a state has the same keys before and after it.

        Args:
            group: The hyperparameters of the parameter's group, and those of the algorithm.
            parameter: The parameter.
            layer: True if the parameter belongs to a layer that can be preconditioned.
        """
        ...

    def descend(
        self, group: dict[str, Any], layers: Directed, others: Directed, state: ParameterState
    ) -> None:
        """Update one parameter group in place.

        Args:
            group: The current hyperparameters of the group, and those of the algorithm.
            layers: Preconditioned parameters and their directions; the rule may overwrite the
                directions.
            others: All other parameters and their gradients; the rule must not change the
                gradients.
            state: The buffers of each parameter, by name.
        """


@dataclass(frozen=True, kw_only=True)
class SGDRule(Hyperparameters):
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

    CONTAINS_LR: ClassVar[bool] = False

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
            gradients, directions = directions, buffers
            if group["nesterov"]:
                directions = torch._foreach_add(gradients, buffers, alpha=momentum)
        move(params, directions, lr)


@dataclass(frozen=True, kw_only=True)
class KFEAdamRule(Hyperparameters):
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
        if layer or group["fallback"] == "sgd":
            return {}
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), dtype=torch.float32), **moments}

    def descend(
        self, group: dict[str, Any], layers: Directed, others: Directed, state: ParameterState
    ) -> None:
        """Update one parameter group in place (see `Rule.descend`)."""
        params, gradients = others
        lr, decay = group["lr"], group["weight_decay"]
        if decay:
            torch._foreach_mul_(layers[0] + params, 1 - lr * decay)
        if layers[0]:
            torch._foreach_sub_(*layers)
        if params and group["fallback"] == "sgd":
            move(params, gradients, lr)
        elif params:
            _adam(params, gradients, group, state)


def _adam(
    params: list[Tensor], gradients: list[Tensor], group: dict[str, Any], state: ParameterState
) -> None:
    """Take one step of torch's Adam."""
    steps = [state[p].setdefault("step", torch.zeros((), dtype=torch.float32)) for p in params]
    means, squares = (
        [buffer(state, p, name) for p in params] for name in ("exp_avg", "exp_avg_sq")
    )
    beta1, beta2 = group["betas"]
    options: dict[str, Any] = {"amsgrad": False, "maximize": False, "weight_decay": 0.0}
    options |= {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "eps": group["eps"]}
    adam(params, gradients, means, squares, [], steps, **options)


def move(params: list[Tensor], directions: Sequence[Tensor], lr: float | Tensor) -> None:
    """Subtract the directions times the learning rate. The host does not read a tensor `lr`."""
    if isinstance(lr, Tensor):
        torch._foreach_sub_(params, torch._foreach_mul(list(directions), lr))
    else:
        torch._foreach_add_(params, list(directions), alpha=-lr)


def buffer(
    state: ParameterState, parameter: Tensor, name: str, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Return a buffer in the parameter's dtype; create it with zeros if it does not exist.

    Its shape is `shape`, or else that of the parameter.
    """
    value = state[parameter].get(name)
    if value is None:
        zeros = torch.zeros_like(parameter) if shape is None else parameter.new_zeros(shape)
        value = state[parameter][name] = zeros
    elif value.dtype != parameter.dtype:  # the model was converted
        value = state[parameter][name] = value.to(parameter.dtype)
    return value
