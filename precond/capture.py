"""Forward hooks that record the inputs and output gradients of layers.

The forward of a layer is recorded if the layer's bank is recording (the optimizer decides this once
per step), the output requires a gradient, and no backward is running. So neither evaluation without
gradients nor the recomputed forward of activation checkpointing is recorded. Between statistics
steps, a hook only reads one bool. `torch.compile` specialises on this bool, which gives two graphs:
one records and one does not.

Output gradients come from a tensor hook on the output. A full backward hook of the module would
make it an error to change the output in place, for example by an in-place activation
(pytorch/pytorch#61519). Compiled models record through the operators of `compiled.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack  # pyright: ignore[reportMissingImports]
from torch.utils.hooks import RemovableHandle

from precond import compiled
from precond.algorithm import Needs
from precond.bank import Bank
from precond.forwards import Forward
from precond.hooks import ModuleHook, remove_copies
from precond.layers import Layer


def attach(banks: Iterable[Bank]) -> list[RemovableHandle]:
    """Register the hooks that record into these banks, and return their handles."""
    compiled.guard_hooks()
    handles: list[RemovableHandle] = []
    for bank in banks:
        for layer in bank.layers:
            remove_copies(layer.module)
            hook = _Hook(bank, layer)
            # Before the user's hooks, which may replace the output.
            handles.append(hook.register_forward(with_kwargs=True, prepend=True))
            handles.append(_register(layer.weight, hook))
    return handles


def _register(weight: Tensor, hook: _Hook) -> RemovableHandle:
    """Register the hook of a weight, which may be frozen now and trained later."""
    trained = weight.requires_grad
    handle = weight.requires_grad_(True).register_post_accumulate_grad_hook(hook.confirm)
    weight.requires_grad_(trained)
    return handle


def detach(handles: Iterable[RemovableHandle], banks: Iterable[Bank]) -> None:
    """Remove the hooks. Compiled graphs keep their hooks, but stop recording."""
    for handle in handles:
        handle.remove()
    for bank in banks:
        bank.recording = False


def check_forwards(banks: Sequence[Bank], due: bool) -> None:
    """Raise `RuntimeError` before a step whose statistics cannot be correct.

    Args:
        banks: The banks of the optimizer.
        due: True if the statistics are due in this step.
    """
    if repeated := [name for bank in banks for name in bank.only_repeated()]:
        raise RuntimeError(
            f"{repeated[0]}: its forward ran only inside the backward, as with reentrant "
            "activation checkpointing, so nothing was recorded. "
            "Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        )
    required = due or not any(bank.filled for bank in banks)
    layers = (layer for bank in banks for layer in bank.layers)
    gradients = any(layer.weight.grad is not None for layer in layers)
    if not gradients and (replaced := [n for bank in banks for n in bank.replaced()]):
        raise RuntimeError(
            f"{', '.join(replaced)}: the weights were replaced after the optimizer was built, as by "
            "load_state_dict(..., assign=True), so the optimizer would not train the model. "
            "Build the optimizer afterwards"
        )
    if gradients and required and not any(bank.forwards.ran for bank in banks):
        raise RuntimeError(
            "the weights have gradients, but no forward was recorded in this step, in which the "
            "statistics are due. Run the forward and the backward of the model that the optimizer "
            "was built from in each step, outside optimizer.paused(). If the model is compiled and "
            "another compiled model ran before the optimizer was built, call "
            "torch.compiler.reset() first"
        )


class _Hook(ModuleHook):
    """The forward hook of a layer.

    Its reference to the bank is weak, so that a model does not keep a discarded optimizer alive.
    """

    def __init__(self, bank: Bank, layer: Layer):
        super().__init__(layer.module)
        self._bank, self._layer = weakref.ref(bank), layer
        self._switch = bank.switch
        self._number = compiled.register(self)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Any:
        # A deep copy of the model shares this hook, but its forwards must not be recorded.
        if not self._switch.on or module is not self.module or not output.requires_grad:
            return None
        x = args[0] if args else kwargs["input"]
        if torch.compiler.is_compiling():
            compiled.guard_hooks()  # dynamo may have been imported after the optimizer was built
            return compiled.watch(output, x, self._number)
        return self._record(x, output)

    def _record(self, x: Tensor, output: Tensor) -> None:
        """Start a forward, and register a hook that reports the output gradient to it."""
        bank, layer = self._bank(), self._layer
        if bank is None or self._is_repetition(bank):
            return
        if reason := _reason_not_to_record(x):
            bank.unusable[layer.name] = reason
            return
        if not x.numel():
            bank.forwards.empty = True
            return
        self.move_to_front()
        forward = bank.forwards.begin(layer, bank.batch_major(layer, x))
        output.register_hook(partial(self._see, forward))

    def _see(self, forward: Forward, gradient: Tensor) -> None:
        """Report an output gradient to its forward."""
        bank = self._bank()
        if bank is not None and self._switch.on:
            if bank.algorithm.NEEDS is not Needs.INPUTS:
                gradient = bank.unscaled(bank.batch_major(self._layer, gradient))
            bank.forwards.see(forward, gradient)

    def see_gradient(self, gradient: Tensor, x: Tensor) -> None:
        """Record a forward of a compiled graph, in its backward."""
        bank, layer = self._bank(), self._layer
        if bank is not None and self._switch.on:
            if not x.numel():
                bank.forwards.empty = True
                return
            x, gradient = bank.batch_major(layer, x), bank.batch_major(layer, gradient)
            bank.forwards.see(bank.forwards.begin_in_backward(layer, x), bank.unscaled(gradient))

    def confirm(self, _: Tensor) -> None:
        """Count the forwards of the running backward, which has reached the weight."""
        if self._switch.on and (bank := self._bank()) is not None:
            bank.forwards.confirm(self._layer)

    def _is_repetition(self, bank: Bank) -> bool:
        """Return True and notify the bank if this forward runs inside a backward."""
        if torch._C._current_graph_task_id() == -1:
            return False
        bank.note_repetition(self._layer)
        return True


def _reason_not_to_record(x: Tensor) -> str | None:
    """Return why a forward with this input cannot be recorded, or None if it can."""
    if peek_interpreter_stack() is not None:
        return "its forward ran in a transform of torch.func"
    if x.is_nested or x.layout is not torch.strided:
        return "its input is nested or sparse"
    return None
