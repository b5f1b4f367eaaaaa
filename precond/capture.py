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
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from precond import compiled
from precond.algorithm import Needs
from precond.bank import Bank
from precond.layers import Layer


def attach(banks: Iterable[Bank]) -> list[RemovableHandle]:
    """Register the hooks that record into these banks, and return their handles."""
    hooks = [(layer.module, _Hook(bank, layer)) for bank in banks for layer in bank.layers]
    return [module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks]


def detach(handles: Iterable[RemovableHandle], banks: Iterable[Bank]) -> None:
    """Remove the hooks. Compiled graphs keep their hooks, but stop recording."""
    for handle in handles:
        handle.remove()
    for bank in banks:
        bank.recording = False


def check_forwards(banks: Sequence[Bank], gradients: bool) -> None:
    """Raise `RuntimeError` before a step whose statistics cannot be correct.

    Args:
        banks: The banks of the optimizer.
        gradients: True if any preconditioned parameter has a gradient.
    """
    if repeated := [name for bank in banks for name in bank.only_repeated()]:
        raise RuntimeError(
            f"{repeated[0]}: its forward ran only inside the backward, as with reentrant "
            "activation checkpointing, so nothing was recorded. "
            "Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        )
    if gradients and not any(bank.filled for bank in banks):
        raise RuntimeError(
            "the parameters have gradients, but no forward was recorded, so no layer has "
            "statistics. Run the model that the optimizer was built from, outside "
            "optimizer.paused(). If that model is compiled and ran before the optimizer was "
            "built, call torch.compiler.reset() first"
        )


class _Hook:
    """The forward hook of a layer.

    Its reference to the bank is weak, so that a model does not keep a discarded optimizer alive.
    """

    def __init__(self, bank: Bank, layer: Layer):
        self._bank, self._layer = weakref.ref(bank), layer
        self._switch, self._needs = bank.switch, bank.algorithm.NEEDS
        self._number = compiled.register(self)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Any:
        # A deep copy of the model shares this hook, but its forwards must not be recorded.
        if not self._switch.on or module is not self._layer.module or not output.requires_grad:
            return None
        x = args[0] if args else kwargs["input"]
        if torch.compiler.is_compiling():
            return self._record_compiled(x, output)
        return self._record(x, output)

    def _record(self, x: Tensor, output: Tensor) -> None:
        """Record the signals that the algorithm needs: now, or by a tensor hook in the backward."""
        bank = self._bank()
        if bank is None or self._is_repetition(bank):
            return
        if self._needs is not Needs.PAIRS:
            bank.record(self._layer, x)
        if self._needs is Needs.BOTH:
            output.register_hook(lambda gradient: self.see_gradient(gradient, None))
        elif self._needs is Needs.PAIRS:
            x, version = x.detach(), x._version

            def record_pair(gradient: Tensor) -> None:
                if x._version != version:
                    raise RuntimeError(
                        f"{self._layer.name}: its input was changed in place after the forward, so "
                        "the gradients of single examples cannot be computed. "
                        "Use the out-of-place operation"
                    )
                self.see_gradient(gradient, x)

            output.register_hook(record_pair)

    def _record_compiled(self, x: Tensor, output: Tensor) -> Tensor | None:
        """Record in a compiled graph.

        Returns:
            A replacement of the output that records its gradient, or None if the algorithm does not
            need this gradient.
        """
        pairs = self._needs is Needs.PAIRS
        if not pairs:
            compiled.see_input(x, self._number)
        if self._needs is Needs.INPUTS:
            return None
        return compiled.watch(output, x if pairs else None, self._number)

    def see_input(self, x: Tensor) -> None:
        """Record an input from a compiled graph, unless a backward is recomputing the forward."""
        bank = self._bank()
        if bank is not None and not self._is_repetition(bank):
            bank.record(self._layer, x)

    def see_gradient(self, gradient: Tensor, x: Tensor | None) -> None:
        """Record an output gradient, with the input for methods that need the pair."""
        if (bank := self._bank()) is not None:
            bank.record(self._layer, x, gradient)

    def _is_repetition(self, bank: Bank) -> bool:
        """Return True and notify the bank if this forward runs inside a backward."""
        if torch._C._current_graph_task_id() == -1:
            return False
        bank.note_repetition(self._layer)
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Detached, ()  # a pickled model has no optimizer


class _Detached:
    """The hook of a pickled model, which does nothing."""

    def __call__(self, *_: Any) -> None:
        pass
