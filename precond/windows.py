"""The base class of optimizers that precondition with the gradients of the last steps.

The window of a parameter is a ring buffer `[w, n]` of its last w gradients, flattened; n is the
number of its elements. A row belongs to the same step in the windows of all parameters. The rows of
steps that have not been taken are zero, and so is the row of a parameter without a gradient.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precond.groups import scalar_lr
from precond.hyperparameters import make
from precond.parts import linalg
from precond.rules.base import buffer, move
from precond.scaling import evaluate
from precond.standalone import NO_COMPLEX, Standalone

UNSUPPORTED = NO_COMPLEX


class WindowOptimizer(Standalone):
    """Base class of optimizers whose directions are computed from windows of gradients.

    A step changes each parameter w that has a gradient, along a direction D of the subclass:

        w <- (1 - lr weight_decay) w - lr D

    The dataclass `SETTINGS` must have the fields `lr`, `weight_decay` and `window`.

    Raises:
        HyperparameterError: Lists every value out of range, with the range, and every unknown name.
    """

    SETTINGS: ClassVar[type]  # the dataclass of the hyperparameters

    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
    ):
        [self.settings] = make(self.SETTINGS, values=hyperparameters)
        trainable = [p for p in model.parameters() if p.requires_grad]
        values = {**vars(self.settings), "step": 0}
        super().__init__(trainable if params is None else params, values)

    @abstractmethod
    def _directions(self, gradients: Mapping[Tensor, Tensor]) -> Mapping[Tensor, Tensor]:
        """Return the direction of each parameter that has a gradient, in the parameter's shape.

        The windows already contain the gradients.
        """

    def _add_buffers(self, parameter: Tensor) -> None:
        """Create the buffers of a parameter."""
        self._window(parameter)
        self._momentum(parameter)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters. Their state has the same keys before and after the first step."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.requires_grad:
                self._add_buffers(p)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Add the gradients to the windows, and update the parameters.

        Args:
            closure: Computes the gradients and returns the loss, as in `torch.optim`.

        Returns:
            The loss that the closure returned, or None without a closure.
        """
        loss = evaluate(closure)
        gradients = {p: p.grad for p in self._parameters() if p.grad is not None}
        if not gradients:
            return loss
        for p in self._parameters():
            self._window(p)[self._slot] = gradients[p].flatten() if p in gradients else 0
        with linalg.exact_arithmetic(next(iter(gradients)).device):
            directions = self._directions(gradients)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p in directions]
            _descend(group, parameters, [directions[p].to(p.dtype) for p in parameters])
            group["step"] += 1
        return loss

    def _parameters(self) -> list[Tensor]:
        """Return all trainable parameters, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @property
    def _slot(self) -> int:
        """The row of the gradients of this step."""
        return self.param_groups[0]["step"] % self.settings.window

    def _rows(self, parameter: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows that the steps until this one have written, `[k, n]`."""
        count = min(self.param_groups[0]["step"] + 1, self.settings.window)
        return self._window(parameter)[:count].to(dtype)

    def _window(self, parameter: Tensor) -> Tensor:
        """Return the window `[w, n]`; create it with zeros if necessary."""
        size = self.settings.window, parameter.numel()
        return buffer(self.state, parameter, "window", size)

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Return the momentum of a parameter; create it with zeros if necessary."""
        return buffer(self.state, parameter, "momentum_buffer")

    def _gram(self, owner: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Return the products of the rows of some parameters together, `[w, w]`.

        Row and column `_slot` may belong to an earlier step. The matrix is a buffer of `owner`. Its
        dtype is that of the parameters, at least float32. If the stored matrix has another dtype,
        because the model was converted or the state was loaded, it is computed from the windows.
        """
        dtype = reduce(torch.promote_types, [p.dtype for p in parameters], torch.float32)
        gram = self.state[owner].get("gram")
        if gram is None or gram.dtype != dtype:
            windows = [self._window(p).to(dtype) for p in parameters]
            gram = self.state[owner]["gram"] = sum_of(w @ w.mT for w in windows)
        return gram

    def _update_gram(self, owner: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Replace row and column `_slot` of the matrix; return that of the written rows, `[k, k]`."""
        gram, slot = self._gram(owner, parameters), self._slot
        rows = (self._rows(p, gram.dtype) for p in parameters)
        products = sum_of(part @ part[slot] for part in rows)
        count = len(products)
        gram[slot, :count] = gram[:count, slot] = products
        return gram[:count, :count]


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of one or more tensors of equal shape."""
    return reduce(torch.add, tensors)


def _descend(group: Mapping[str, Any], parameters: list[Tensor], directions: list[Tensor]) -> None:
    """Shrink parameters of a group by the weight decay, and move them."""
    if not parameters:
        return
    lr = scalar_lr(group)
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
    move(parameters, directions, lr)
