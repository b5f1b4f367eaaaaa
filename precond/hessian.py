"""Hessian-vector products, for the optimizers that need the graph of the backward pass.

Such an optimizer has a method `backward(loss)`, which replaces `loss.backward()`: it sets the
gradients, computes Hessian-vector products, and frees the graph. In contrast,
`loss.backward(create_graph=True)` keeps the graph alive in `p.grad`, in a reference cycle.
`precond.backward(loss, optimizer)` works for every optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

UNSUPPORTED = {
    "GradScaler": "the Hessian would be scaled too",
    "compile": "a compiled backward cannot be differentiated",
    "data parallel": "each rank would use the Hessian of only its own examples",
}


@runtime_checkable
class TakesLoss(Protocol):
    """An optimizer that needs the loss tensor."""

    def backward(self, loss: Tensor) -> None:
        """Set the gradients as `loss.backward()` does, and store Hessian products for `step()`."""


def backward(loss: Tensor, optimizer: Optimizer | Any) -> None:
    """Call `loss.backward()`, or the optimizer's method `backward(loss)` if it has one."""
    if isinstance(optimizer, TakesLoss):
        optimizer.backward(loss)
    else:
        loss.backward()


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """Return the loss of a step's closure, evaluated with gradients, or None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def differentiate(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Add the gradients to `p.grad`, and return them with their graph.

    The gradient of a parameter that the loss does not use is None.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            value = gradient.detach()
            parameter.grad = value.clone() if parameter.grad is None else parameter.grad + value
    return gradients


def product(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """Return `H v` as a tensor for each parameter; the graph of the gradients is kept."""
    pairs = [
        (g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and g.requires_grad
    ]
    if not pairs:  # the loss is linear in the parameters
        return [torch.zeros_like(p) for p in parameters]
    outputs, weights = zip(*pairs, strict=True)
    options: dict[str, bool] = {"retain_graph": True, "materialize_grads": True}
    return list(torch.autograd.grad(outputs, parameters, weights, **options))


def refuse_data_parallel(model: nn.Module, name: str) -> None:
    """Raise `ValueError` if the model contains a DistributedDataParallel.

    DistributedDataParallel averages the gradients over the ranks, but not the Hessian products.
    """
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        reason = UNSUPPORTED["data parallel"]
        raise ValueError(f"{name} does not support DistributedDataParallel: {reason}")


class HessianOptimizer(Optimizer):
    """Base class of optimizers whose `backward(loss)` stores Hessian products for the next step."""

    NAME: ClassVar[str]  # the name in messages
    _step_supports_amp_scaling = True  # lets `step` detect a scaler and raise an error
    _products: Any = None

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        """Return the loss of a step's closure; raise `RuntimeError` under GradScaler."""
        if getattr(self, "found_inf", None) is not None:
            reason = UNSUPPORTED["GradScaler"]
            text = f"does not support GradScaler: {reason}. Use bfloat16 autocast"
            raise RuntimeError(f"{self.NAME} {text}")
        return evaluate(closure)

    def _take_products(self) -> Any:
        """Return the products and delete them; raise `RuntimeError` if there are none."""
        products, self._products = self._products, None
        if products is None:
            advice = "call optimizer.backward(loss), not loss.backward()"
            raise RuntimeError(f"{self.NAME} needs the Hessian at this step: {advice}")
        return products

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients and the Hessian products."""
        super().zero_grad(set_to_none)
        self._products = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as in `torch.optim`, and discard the Hessian products."""
        super().load_state_dict(state_dict)
        self._products = None
