"""Forward hooks: which forwards count, and where their inputs go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from precond.layers import Layer

Record = Callable[[Layer, Tensor], None]


class Capture:
    """Calls `record(layer, input)` for every forward that counts.

    A forward counts when `recording` is set (the optimizer sets it for steps whose statistics are due), its output
    needs a gradient, and no backward is running: so evaluation never enters, nor does the second forward of activation
    checkpointing. The hook reads one bool in between, which costs nothing.
    """

    def __init__(self, layers: list[Layer], record: Record):
        self.recording = True
        self._record = record
        self._paused = False
        # The model must not keep a discarded optimizer alive, so the hooks hold it weakly and go with it.
        handles = [layer.module.register_forward_hook(_Hook(weakref.ref(self), layer)) for layer in layers]
        self.remove = weakref.finalize(self, _remove_all, handles)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Forwards in this block do not count."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __call__(self, layer: Layer, x: Tensor, output: Tensor) -> None:
        """Record a forward if it counts."""
        if self._paused or not output.requires_grad or _in_backward():
            return
        self._record(layer, x)


class _Hook:
    """One layer's forward hook."""

    def __init__(self, capture: weakref.ref[Capture], layer: Layer):
        self.capture, self.layer = capture, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        capture = self.capture()
        # A deep copy of the model carries this hook, too: it is not our model.
        if capture is not None and capture.recording and module is self.layer.module:
            capture(self.layer, args[0], output)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return self


def _in_backward() -> bool:
    """Whether autograd runs now, which is when activation checkpointing repeats forwards."""
    return torch._C._current_graph_task_id() != -1


def _remove_all(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
