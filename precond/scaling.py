"""Loss scaling by `torch.amp.GradScaler`, without reading the device.

The scaler hands over its scale and whether it found an inf or nan, both as tensors on the device. Where it did, the
step must leave no trace: statistics are forgotten, gradients are made nan, which every algorithm passes over, and
parameters and buffers are put back. All of it runs in every step under a scaler, since only the device knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True)
class LossScale:
    """What a scaler says about one step.

    Attributes:
        inverse: What the gradients are still to be multiplied by; None after `scaler.unscale_`.
        skipped: Whether the step is not to count, a bool on the device.
    """

    inverse: Tensor | None
    skipped: Tensor

    @classmethod
    def of(cls, optimizer: Optimizer) -> LossScale | None:
        """What `GradScaler.step` has set on an optimizer whose `_step_supports_amp_scaling` is true, or None."""
        found: Tensor | None = getattr(optimizer, "found_inf", None)
        if found is None:
            return None
        scale: Tensor | None = getattr(optimizer, "grad_scale", None)
        return cls(None if scale is None else scale.double().reciprocal().float(), found.reshape(()) > 0)

    def unscale(self, gradients: list[Tensor]) -> list[Tensor]:
        """The gradients in their own size, in new tensors where that needs any."""
        return gradients if self.inverse is None else list(torch._foreach_mul(gradients, self.inverse))

    def spoil(self, buffer: Tensor) -> None:
        """Gradients `[L, o, p]` in their own size, or nan where the step is not to count; in place."""
        if self.inverse is not None:
            buffer.mul_(self.inverse)
        buffer.masked_fill_(self.skipped, torch.nan)


class Undo:
    """What parameters and their buffers were before a step.

    Args:
        parameters: Those that the step may change.
        state: Their buffers, by parameter; buffers that the step makes were zero.
    """

    def __init__(self, parameters: Iterable[Tensor], state: dict[Tensor, dict[str, Any]]):
        self._parameters, self._state = list(parameters), state
        self._before = {tensor: tensor.clone() for tensor in self._tensors()}

    def where(self, skipped: Tensor) -> None:
        """Put it back where the step is not to count."""
        for tensor in self._tensors():
            before = self._before.get(tensor)
            kept = torch.zeros_like(tensor) if before is None else before
            tensor.copy_(torch.where(skipped.to(tensor.device, non_blocking=True), kept, tensor))

    def _tensors(self) -> list[Tensor]:
        buffers = [value for p in self._parameters for value in self._state.get(p, {}).values()]
        return [*self._parameters, *buffers]
