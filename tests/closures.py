"""Closures for the optimizers that need them, in tests that call `step()` after a backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch.nn.functional as F
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

import precond

_hooks: WeakKeyDictionary[Optimizer, RemovableHandle] = WeakKeyDictionary()


def repeat(optimizer: Optimizer | Any, evaluate: Callable[[], Any]) -> None:
    """Let the next steps of an optimizer that needs a closure evaluate the batch by `evaluate`.

    Call this after a backward, or before it. The first call of the closure does nothing, because
    the test has evaluated the batch already; the second one calls `evaluate`. Optimizers that need
    no closure are not affected.
    """
    if not precond.needs_closure(optimizer):
        return

    def add_closure(_: Any, arguments: Any, keywords: Any) -> Any:
        if arguments[1:] or keywords:
            return None
        calls = iter([lambda: None, evaluate])
        return (arguments[0], lambda: next(calls)()), {}

    if optimizer in _hooks:
        _hooks[optimizer].remove()
    _hooks[optimizer] = optimizer.register_step_pre_hook(add_closure)


def backward(optimizer: Optimizer | Any, loss: Callable[..., Any], *arguments: Any) -> Any:
    """Call `precond.backward(loss(*arguments), optimizer)`, and return the loss.

    The next step may repeat it.
    """

    def evaluate() -> Any:
        value = loss(*arguments)
        precond.backward(value, optimizer)
        return value

    repeat(optimizer, evaluate)
    return evaluate()


def classify(optimizer: Optimizer | Any, model: Callable[[Any], Any], x: Any, y: Any) -> Any:
    """Call the backward of a model's mean cross entropy, which the next step may repeat."""
    return backward(optimizer, lambda: F.cross_entropy(model(x), y))
