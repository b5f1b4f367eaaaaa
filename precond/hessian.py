"""Hessian-vector products, for the optimizers that need the graph of the backward pass.

Such an optimizer has a method `backward(loss)`, which replaces `loss.backward()`: it sets the
gradients, computes Hessian-vector products, and frees the graph. In contrast,
`loss.backward(create_graph=True)` keeps the graph alive in `p.grad`, in a reference cycle.
`precond.backward(loss, optimizer)` works for every optimizer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from precond import math_attention
from precond.scaling import HandlesScale
from precond.shared import Shared, values_of
from precond.standalone import NO_COMPLEX, Standalone

UNSUPPORTED = {
    "GradScaler": "the Hessian would be scaled too",
    "unscale_": "the Hessian would be scaled too",
    "compile": "a compiled backward cannot be differentiated",
    "data parallel": "each rank would use the Hessian of only its own examples",
    **NO_COMPLEX,
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


def differentiate(
    loss: Tensor, parameters: Sequence[Tensor], others: Sequence[Tensor] = ()
) -> Sequence[Tensor | None]:
    """Add all gradients to `p.grad`, and return those of `parameters` with their graph.

    The returned gradient of a parameter that the loss does not use is None.

    Args:
        loss: The loss.
        parameters: The parameters whose gradients are differentiated later.
        others: All other parameters that get a gradient.
    """
    leaves = [*parameters, *others]
    with math_attention.plain_operations():  # for forwards that checkpointing repeats here
        gradients = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            value = gradient.detach()
            leaf.grad = value.clone() if leaf.grad is None else leaf.grad + value
    return gradients[: len(parameters)]


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
    with math_attention.plain_operations():
        return list(torch.autograd.grad(outputs, parameters, weights, **options))


def refuse_data_parallel(model: nn.Module, name: str) -> None:
    """Raise `ValueError` if the model contains a DistributedDataParallel.

    DistributedDataParallel averages the gradients over the ranks, but not the Hessian products.
    """
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        reason = UNSUPPORTED["data parallel"]
        text = f"does not support DistributedDataParallel: {reason}. Train in one process"
        raise ValueError(f"{name} {text}")


class HessianOptimizer(HandlesScale, Standalone):
    """Base class of optimizers whose `backward(loss)` stores Hessian products for the next step."""

    _model: nn.Module | None = None  # None if it was built from parameter groups only
    _products = Shared[Any](None)

    def attach(self, model: nn.Module) -> None:
        """Let the model compute attention by operations that can be differentiated twice.

        The fused kernels of `scaled_dot_product_attention` have no second derivative. The model
        uses them only if gradients are disabled or the next backward is not differentiated.
        """
        self._model = model
        handles = math_attention.attach(model, weakref.WeakMethod(self._differentiates_twice))
        weakref.finalize(values_of(self), math_attention.detach, handles)

    def _differentiates_twice(self) -> bool:
        """Return True if the next backward computes Hessian products."""
        return True

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, and attach it to its model."""
        super().__setstate__(state)
        if self._model is not None:
            self.attach(self._model)

    def _differentiate(self, loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Add the gradients of the model's parameters to `p.grad`; return those of `parameters`.

        If no parameter has a gradient yet, discard the products, which belong to earlier gradients.
        """
        if not self._has_gradients():
            self._products = None
        included = set(parameters)
        model = () if self._model is None else self._model.parameters()
        others = [p for p in model if p.requires_grad and p not in included]
        return differentiate(loss, parameters, others)

    def _has_gradients(self) -> bool:
        """Return True if a parameter has a gradient."""
        return any(p.grad is not None for group in self.param_groups for p in group["params"])

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        """Return the loss of a step's closure; raise `RuntimeError` under GradScaler."""
        if getattr(self, "found_inf", None) is not None:
            reason = UNSUPPORTED["GradScaler"]
            text = f"does not support GradScaler: {reason}. Use bfloat16 autocast"
            raise RuntimeError(f"{self.NAME} {text}")
        return super()._evaluate(closure)

    def _take_products(self) -> Any:
        """Return the products and delete them; raise `RuntimeError` if there are none."""
        products, self._products = self._products, None
        if products is None:
            advice = (
                "call optimizer.backward(loss), not loss.backward(). In a LightningModule, define "
                "`def backward(self, loss): precond.backward(loss, "
                "self.optimizers(use_pl_optimizer=False))`"
            )
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
