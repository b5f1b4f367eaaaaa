"""The recording of the signals that the hooks of a bank's layers add to its statistics."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise, starmap
from typing import Any

import torch
from torch import Tensor, nn

from precond.algorithm import Algorithm, Needs, Signals
from precond.diagnostics.monitor import Monitor
from precond.forwards import Forwards
from precond.layers import Layer
from precond.parts import linalg
from precond.parts.stacks import discard, rescale_outputs
from precond.parts.statistics import Additions, deferring
from precond.passes import Pass


class Switch:
    """A flag that is True while hooks record.

    It is a separate object, so that a hook can read the flag without a reference to the bank.
    """

    on = True


class Recorder:
    """The base of a bank: layers of one shape, and the signals that they add to a state.

    Args:
        algorithm: The optimizer's algorithm; the bank uses `algorithm.for_shape(shape)`.
        layers: The layers; a grouped convolution has one slot of the axis L for each group.
    """

    state: Any
    dtype: torch.dtype
    buffer: Tensor
    forwards: Forwards
    _repeated: set[str]  # layers whose forward ran inside a backward in this step
    # The current evaluation of a batch, for algorithms that evaluate each batch twice.
    _pass: Pass | None
    in_second_pass: bool

    def __init__(self, algorithm: Algorithm[Any], layers: list[Layer]):
        self.algorithm = algorithm.for_shape(layers[0].shape)
        self.layers = layers
        ends = [0, *accumulate(layer.groups for layer in layers)]
        self.slots = dict(
            zip((layer.name for layer in layers), starmap(slice, pairwise(ends)), strict=True)
        )
        self.switch = Switch()
        # The factor by which the loss is scaled in the backward.
        self.grad_output_scale: float | Tensor = 1.0
        self.monitor: Monitor | None = None
        # For layers for which no module declares `batch_first`; None if it is not known.
        self.batch_first: bool | None = True
        # Layers that were called with inputs that cannot be recorded, and the reasons.
        self.unusable: dict[str, str] = {}

    @property
    def recording(self) -> bool:
        """True if the next forwards are recorded."""
        return self.switch.on

    @recording.setter
    def recording(self, on: bool) -> None:
        self.switch.on = on

    def only_repeated(self) -> list[str]:
        """Return the names of layers whose forward ran in this step only inside a backward."""
        return sorted(self._repeated - self.forwards.added)

    def replaced(self) -> list[str]:
        """Return the names of layers whose weight was replaced by a tensor that has a gradient."""
        current = ((layer, layer.module._parameters.get("weight")) for layer in self.layers)
        return [
            layer.name
            for layer, weight in current
            if weight is not None and weight is not layer.weight and weight.grad is not None
        ]

    def note_repetition(self, layer: Layer) -> None:
        """Note that a forward of this layer ran inside a backward."""
        self._repeated.add(layer.name)

    def accumulate(
        self,
        layer: Layer,
        x: Tensor | None = None,
        gradient: Tensor | None = None,
        *,
        examples: int | None = None,
        backward: int = -1,
        additions: Additions | None = None,
    ) -> None:
        """Accumulate the input of one layer, the gradient of its output, or both.

        Args:
            layer: The layer.
            x: Its input.
            gradient: The gradient of the loss with respect to its output.
            examples: Number of examples over which the loss is a mean. Default: the number of
                examples of `gradient`.
            backward: Number of the backward (see `Signals`).
            additions: A list that receives functions which do the additions later.
        """
        slots = self.slots[layer.name]
        with linalg.exact_arithmetic(self.buffer.device), deferring(additions):
            rows = None if x is None else layer.rows(x, self.dtype)
            g = None if gradient is None else layer.output_gradients(gradient, self.dtype, examples)
            signals = Signals(rows, g, backward)
            if self._pass is not None:
                self._pass.add(slots, signals)
            if self.in_second_pass:
                return
            self.algorithm.accumulate(self.state, slots, signals)
            if self.monitor is not None and rows is not None:
                self.monitor.record(slots, rows)

    def batch_major(self, layer: Layer, tensor: Tensor) -> Tensor:
        """Return an input or an output gradient of a layer with the batch as the first axis.

        Raises:
            RuntimeError: It is not known which axis is the batch, and the algorithm depends on it.
        """
        if isinstance(layer.module, nn.Conv2d) or tensor.dim() < 3:
            return tensor
        first = self.batch_first if layer.batch_first is None else layer.batch_first
        if first is None and self.algorithm.NEEDS is not Needs.INPUTS:
            raise RuntimeError(
                f"{layer.name}: its input has the shape {list(tensor.shape)}, and the model has "
                "modules with batch_first=False, so it is not known which axis is the batch: set "
                "optimizer.batch_first to True or False"
            )
        return tensor.transpose(0, 1) if first is False else tensor

    def discard(self, layers: Iterable[Layer]) -> None:
        """Discard what was added for some layers since the last step."""
        for layer in layers:
            slots = self.slots[layer.name]
            if self._pass is not None:
                self._pass.discard(slots)
            if self.in_second_pass:
                continue
            discard(self.state, slots)
            if self.monitor is not None:
                self.monitor.discard(slots)

    def unscaled(self, gradient: Tensor) -> Tensor:
        """Return an output gradient divided by `grad_output_scale`."""
        scale = self.grad_output_scale
        plain = isinstance(scale, float) and scale == 1
        return gradient if plain else gradient.to(self.dtype) / scale

    def rescale_outputs(self, factor: Tensor) -> None:
        """Multiply the output gradients that were added since the last step by a factor."""
        rescale_outputs(self.state, factor)
