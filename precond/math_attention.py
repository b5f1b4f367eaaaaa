"""Attention that can be differentiated twice, for the optimizers that need Hessian products.

The fused kernels of `torch.nn.functional.scaled_dot_product_attention` have no second derivative.
Hooks around the forwards of the model's modules therefore select plain operations.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from precond.hooks import ModuleHook, remove_copies

Condition = Callable[[], Callable[[], bool] | None]  # a weak reference to a function


def plain_operations() -> AbstractContextManager[Any]:
    """Return a context in which attention is computed by plain operations."""
    return sdpa_kernel(SDPBackend.MATH)


def attach(model: nn.Module, condition: Condition) -> list[RemovableHandle]:
    """Register hooks, so that forwards of the model's modules use plain operations.

    Args:
        model: The model.
        condition: A weak reference to a function that returns True if the next backward is
            differentiated. If it returns False, or if gradients are disabled, the forwards use
            the fused kernels.
    """
    stack: list[tuple[nn.Module, AbstractContextManager[Any]]] = []
    handles = []
    for module in model.modules():
        remove_copies(module)
        if not isinstance(module, torch.jit.ScriptModule) and not _is_builtin_leaf(module):
            handles.append(_Enter(module, stack, condition).register_forward_pre(prepend=True))
            handles.append(_Leave(module, stack).register_forward(always_call=True))
    return handles


def detach(handles: list[RemovableHandle]) -> None:
    """Remove the hooks."""
    for handle in handles:
        handle.remove()


def _is_builtin_leaf(module: nn.Module) -> bool:
    """Return True for modules of torch without children, none of which computes attention."""
    return type(module).__module__.startswith("torch.nn.") and not module._modules


class _Enter(ModuleHook):
    """The hook before a forward; only the outermost forward selects the operations."""

    def __init__(self, module: nn.Module, stack: list[Any], condition: Condition):
        super().__init__(module)
        self._stack, self._condition = stack, condition

    def __call__(self, module: nn.Module, _: Any) -> None:
        if module is not self.module or torch.compiler.is_compiling():
            return
        condition = self._condition()
        inner = bool(self._stack) or not torch.is_grad_enabled()
        plain = not inner and condition is not None and condition()
        context = plain_operations() if plain else nullcontext()
        context.__enter__()
        self._stack.append((module, context))


class _Leave(ModuleHook):
    """The hook after a forward, also if it raised an error."""

    def __init__(self, module: nn.Module, stack: list[Any]):
        super().__init__(module)
        self._stack = stack

    def __call__(self, module: nn.Module, *_: Any) -> None:
        if self._stack and self._stack[-1][0] is module and module is self.module:
            _, context = self._stack.pop()
            context.__exit__(None, None, None)
