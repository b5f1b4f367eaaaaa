"""Operators that record inside a compiled model.

`torch.compile` traces through a forward hook. The changes that a hook makes to Python objects would
either happen only once, during tracing, or break the graph. In a graph, the hook therefore calls
one of the two operators below, which run the same code as an eager hook. They are registered as
having an effect, so that the compiler neither removes them nor merges two calls with equal
arguments. They are tagged as unsafe for CUDA graphs, which would replay the kernels without the
Python code.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._higher_order_ops.effects import _EffectType, _register_effectful_op


class Receiver(Protocol):
    """The interface of the hooks, which the operators call."""

    def see_input(self, x: Tensor) -> None:
        """Receive the layer's input, in the forward."""

    def see_gradient(self, gradient: Tensor, x: Tensor | None) -> None:
        """Receive the gradient of the layer's output, in the backward.

        `x` is the layer's input if `watch` was called with it, else None.
        """


# Graphs contain numbers, not objects, so that they do not keep a discarded optimizer alive.
_receivers: weakref.WeakValueDictionary[int, Receiver] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def register(receiver: Receiver) -> int:
    """Return a number by which graphs can call this object while it is alive."""
    number = next(_numbers)
    _receivers[number] = receiver
    return number


def see_input(x: Tensor, number: int) -> None:
    """Report a layer's input from a graph."""
    torch.ops.precond.see_input(x.detach(), number)


def watch(output: Tensor, x: Tensor | None, number: int) -> Tensor:
    """Return a copy of a layer's output that reports its gradient, and `x` if given."""
    detached = None if x is None else x.detach()
    return _Watch.apply(output, detached, number)  # pyright: ignore[reportReturnType]


class _Watch(torch.autograd.Function):
    """The identity function; its backward reports the gradient."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor | None, number: int) -> Tensor:
        ctx.number = number
        ctx.save_for_backward(x)
        return output.clone()  # an operator must not return its input

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        [x] = ctx.saved_tensors
        return torch.ops.precond.see_gradient(gradient, x, ctx.number), None, None


_library = torch.library.Library("precond", "DEF")
_tags = (torch.Tag.cudagraph_unsafe,)
_library.define("see_input(Tensor x, int number) -> ()", tags=_tags)
_library.define("see_gradient(Tensor gradient, Tensor? x, int number) -> Tensor", tags=_tags)


@torch.library.impl(_library, "see_input", "CompositeExplicitAutograd")
def _see_input(x: Tensor, number: int) -> None:
    if (receiver := _receivers.get(number)) is not None:
        receiver.see_input(x)


@torch.library.impl(_library, "see_gradient", "CompositeExplicitAutograd")
def _see_gradient(gradient: Tensor, x: Tensor | None, number: int) -> Tensor:
    if (receiver := _receivers.get(number)) is not None:
        receiver.see_gradient(gradient, x)
    return gradient.clone()


torch.library.register_fake("precond::see_input", lambda x, number: None, lib=_library)
torch.library.register_fake(
    "precond::see_gradient", lambda gradient, x, number: gradient.clone(), lib=_library
)
for _name in ("see_input", "see_gradient"):
    _register_effectful_op(getattr(torch.ops.precond, _name).default, _EffectType.ORDERED)
