"""Recording inside a compiled model: operators that the compiler leaves alone.

`torch.compile` traces through a forward hook, and what the hook does to Python objects it would either do once, while
tracing, or break the graph for. So in a graph the hook calls one of two operators, which run the code that an eager
hook runs. They are marked as having an effect, so they are neither dropped nor merged with a twin of equal arguments,
and as unfit for CUDA graphs, which would replay their kernels without their bookkeeping.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._higher_order_ops.effects import _EffectType, _register_effectful_op


class Receiver(Protocol):
    """What the operators report to: a hook."""

    def see_input(self, x: Tensor) -> None:
        """The layer's input, in the forward."""

    def see_gradient(self, gradient: Tensor, x: Tensor | None) -> None:
        """The gradient of the layer's output, in the backward, with the input if that was asked for."""


# Graphs hold numbers, not objects: a discarded optimizer is not kept alive by them.
_receivers: weakref.WeakValueDictionary[int, Receiver] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def register(receiver: Receiver) -> int:
    """A number by which graphs may call this object for as long as it lives."""
    number = next(_numbers)
    _receivers[number] = receiver
    return number


def see_input(x: Tensor, number: int) -> None:
    """Report a layer's input, in a graph."""
    torch.ops.precond.see_input(x.detach(), number)


def watch(output: Tensor, x: Tensor | None, number: int) -> Tensor:
    """The output of a layer, in a graph; its gradient will be reported, with `x` if that is given."""
    return _Watch.apply(output, None if x is None else x.detach(), number)  # pyright: ignore[reportReturnType]


class _Watch(torch.autograd.Function):
    """The identity, which reports its gradient."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor | None, number: int) -> Tensor:
        ctx.number = number
        ctx.save_for_backward(x)
        return output.clone()  # an operator may not return what it was given

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
