"""Forward hooks: which forwards count, and where their inputs go.

A forward counts when its bank is recording (the optimizer decides that once per step), its output needs a gradient, and
no backward is running: so evaluation without gradients never enters, nor does the second forward of activation
checkpointing. Between statistics steps a hook reads one bool, which costs nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from precond.algorithm import Needs
from precond.bank import Bank
from precond.layers import Layer


def attach(banks: Iterable[Bank]) -> list[RemovableHandle]:
    """Let the layers of these banks record into them."""
    return [
        layer.module.register_forward_hook(_Hook(weakref.ref(bank), layer), with_kwargs=True)
        for bank in banks
        for layer in bank.layers
    ]


def detach(handles: Iterable[RemovableHandle]) -> None:
    """Remove the hooks."""
    for handle in handles:
        handle.remove()


class _Hook:
    """One layer's forward hook. It holds the bank weakly: a model must not keep a discarded optimizer alive."""

    def __init__(self, bank: weakref.ref[Bank], layer: Layer):
        self._bank, self._layer = bank, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        bank = self._bank()
        # A deep copy of the model carries this hook, too, and is not our model.
        if bank is None or not bank.recording or module is not self._layer.module:
            return
        if output.requires_grad and not _in_backward():
            self._record(bank, args[0] if args else kwargs["input"], output)

    def _record(self, bank: Bank, x: Tensor, output: Tensor) -> None:
        """Record what the algorithm needs, now or when the gradient of the output is there."""
        layer, needs = self._layer, bank.algorithm.needs
        if needs is not Needs.PAIRS:
            bank.record(layer, x)
        if needs is Needs.BOTH:
            output.register_hook(lambda gradient: bank.record(layer, gradient=gradient))
        elif needs is Needs.PAIRS:
            x, version = x.detach(), x._version

            def record_pair(gradient: Tensor) -> None:
                if x._version != version:
                    raise RuntimeError(
                        f"{layer.name}: its input was changed in place after the forward, so the gradients of single "
                        "examples cannot be formed. Use the out-of-place operation"
                    )
                bank.record(layer, x, gradient)

            output.register_hook(record_pair)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Detached, ()  # a pickled model has no optimizer


class _Detached:
    """What is left of a hook in a pickled model."""

    def __call__(self, *_: Any) -> None:
        pass


def _in_backward() -> bool:
    """Whether autograd runs now, which is when activation checkpointing repeats forwards."""
    return torch._C._current_graph_task_id() != -1
