"""The interface of an update rule, and the operations that rules share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam

from precond.hyperparameters import Hyperparameters

ParameterState = Mapping[Tensor, dict[str, Any]]
Directed = tuple[list[Tensor], list[Tensor]]  # parameters, and the direction of each
MOMENTS = ("exp_avg", "exp_avg_sq")
CHUNK = 2**18  # elements of parameters in a part that fits the cache of a CPU


class Rule(Hyperparameters, ABC):
    """An update rule: a dataclass of hyperparameters that each parameter group may override."""

    NUMERICS: ClassVar[int] = 1  # as `Algorithm.NUMERICS`
    CONTAINS_LR: ClassVar[bool] = False  # True if the layers' directions contain the learning rate
    # Texts for `python -m precond`, with the symbols of `Card`.
    COST: ClassVar[str] = ""
    MEMORY: ClassVar[str] = ""

    def prepare(self, group: dict[str, Any]) -> None:
        """Add what the rule needs to a new parameter group."""

    @abstractmethod
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

    @abstractmethod
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


def chunks(params: list[Tensor], directions: list[Tensor]) -> Iterator[Directed]:
    """Yield the parameters and directions in parts; a rule updates one part after the other.

    On a CPU, a part fits the cache, so that all operations of a rule read it from memory only once.
    On other devices, there is only one part, because each call of an operation has a fixed cost.
    """
    start = size = 0
    for end, parameter in enumerate(params, start=1):
        size += parameter.numel() if parameter.device.type == "cpu" else 0
        if size >= CHUNK or end == len(params):
            yield params[start:end], directions[start:end]
            start, size = end, 0


def average(
    params: list[Tensor], directions: Sequence[Tensor], momentum: float, state: ParameterState
) -> list[Tensor]:
    """Update the moving averages of the directions in place, and return them."""
    buffers = [buffer(state, p, "momentum_buffer") for p in params]
    torch._foreach_lerp_(buffers, list(directions), 1 - momentum)
    return buffers


def decay_weights(params: list[Tensor], lr: float | Tensor, decay: float) -> None:
    """Multiply the parameters by 1 - lr x decay. The host does not read a tensor `lr`."""
    if decay:
        torch._foreach_mul_(params, 1 - lr * decay)


def new_moments(parameter: Tensor) -> dict[str, Tensor]:
    """Return the initial buffers of Adam."""
    moments = {name: torch.zeros_like(parameter) for name in MOMENTS}
    return {"step": torch.zeros((), dtype=torch.float32), **moments}


def adam_step(
    params: list[Tensor],
    gradients: list[Tensor],
    state: ParameterState,
    *,
    lr: float | Tensor,
    betas: Sequence[float],
    eps: float,
) -> None:
    """Take one step of torch's Adam, without weight decay."""
    steps = [state[p].setdefault("step", torch.zeros((), dtype=torch.float32)) for p in params]
    means, squares = ([buffer(state, p, name) for p in params] for name in MOMENTS)
    options: dict[str, Any] = {"amsgrad": False, "maximize": False, "weight_decay": 0.0}
    options |= {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps}
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
