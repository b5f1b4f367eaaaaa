"""An operator that records inside a compiled model.

`torch.compile` traces through a forward hook. The changes that a hook makes to Python objects would
either happen only once, during tracing, or break the graph. In a graph, the hook therefore replaces
the output by one whose backward calls the operator below. The operator is registered as having an
effect, so that the compiler neither removes it nor merges two calls with equal arguments. It is
tagged as unsafe for CUDA graphs, which would replay the kernels without the Python code.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._higher_order_ops.effects import _EffectType, _register_effectful_op


class Receiver(Protocol):
    """The interface of the hooks, which the operator calls."""

    def see_gradient(self, gradient: Tensor, x: Tensor) -> None:
        """Receive the gradient of the layer's output and the layer's input, in the backward."""


# Graphs contain numbers, not objects, so that they do not keep a discarded optimizer alive.
_receivers: weakref.WeakValueDictionary[int, Receiver] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def register(receiver: Receiver) -> int:
    """Return a number by which graphs can call this object while it is alive."""
    number = next(_numbers)
    _receivers[number] = receiver
    return number


def guard_hooks() -> bool:
    """Let `torch.compile` compare the hooks of modules before it reuses compiled code.

    By default it does not. The code of one model is then reused for another model of the same class
    that has other hooks, which would record into the wrong bank, or not at all. Code that was
    compiled before is discarded, because it does not compare hooks.
    """
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds
    if dynamo is not None and dynamo.config.skip_nnmodule_hook_guards:
        dynamo.config.skip_nnmodule_hook_guards = False
        if not torch.compiler.is_compiling():
            dynamo.reset()
    return True


# This flag makes `torch.compile` run the function during tracing. The decorator
# `torch.compiler.assume_constant_result` also sets it, but imports torch._dynamo.
guard_hooks._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def watch(output: Tensor, x: Tensor, number: int) -> Tensor:
    """Return a copy of a layer's output; its backward reports the gradient and the input `x`."""
    return _Watch.apply(output, x.detach(), number)  # pyright: ignore[reportReturnType]


class _Watch(torch.autograd.Function):
    """The identity function; its backward reports the gradient."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, number: int) -> Tensor:
        ctx.number = number
        ctx.save_for_backward(x)
        return output.clone()  # an operator must not return its input

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        [x] = ctx.saved_tensors
        return torch.ops.precond.see_gradient(gradient, x, ctx.number), None, None


_library = torch.library.Library("precond", "DEF")
_library.define(
    "see_gradient(Tensor gradient, Tensor x, int number) -> Tensor",
    tags=(torch.Tag.cudagraph_unsafe,),
)


@torch.library.impl(_library, "see_gradient", "CompositeExplicitAutograd")
def _see_gradient(gradient: Tensor, x: Tensor, number: int) -> Tensor:
    if (receiver := _receivers.get(number)) is not None:
        receiver.see_gradient(gradient, x)
    return gradient.clone()


torch.library.register_fake(
    "precond::see_gradient", lambda gradient, x, number: gradient.clone(), lib=_library
)
_register_effectful_op(torch.ops.precond.see_gradient.default, _EffectType.ORDERED)
