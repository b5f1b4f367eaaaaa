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
    """The scaler's values for one step.

    Attributes:
        inverse: The factor that the gradients must still be multiplied by; None after `scaler.unscale_`.
        skipped: True if the step must leave no trace, a bool on the device.
    """

    inverse: Tensor | None
    skipped: Tensor

    @classmethod
    def of(cls, optimizer: Optimizer) -> LossScale | None:
        """Return what `GradScaler.step` set on an optimizer with `_step_supports_amp_scaling`, or None."""
        infinite: Tensor | None = getattr(optimizer, "found_inf", None)
        if infinite is None:
            return None
        scale: Tensor | None = getattr(optimizer, "grad_scale", None)
        return cls(
            None if scale is None else scale.double().reciprocal().float(), infinite.reshape(()) > 0
        )

    def unscale(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return the gradients without the scale, in new tensors if they are scaled."""
        return (
            gradients if self.inverse is None else list(torch._foreach_mul(gradients, self.inverse))
        )

    def spoil(self, buffer: Tensor) -> None:
        """Remove the scale from gradients `[L, o, p]` in place; fill them with nan if the step is skipped."""
        if self.inverse is not None:
            buffer.mul_(self.inverse)
        buffer.masked_fill_(self.skipped, torch.nan)


class Undo:
    """The values of parameters and their buffers before a step; buffers that the step creates were zero."""

    def __init__(self, parameters: Iterable[Tensor], state: dict[Tensor, dict[str, Any]]):
        self._parameters, self._state = list(parameters), state
        self._before = {tensor: tensor.clone() for tensor in self._tensors()}

    def where(self, skipped: Tensor) -> None:
        """Restore the values if the step is skipped."""
        for tensor in self._tensors():
            before = self._before.get(tensor)
            kept = torch.zeros_like(tensor) if before is None else before
            tensor.copy_(torch.where(skipped.to(tensor.device, non_blocking=True), kept, tensor))

    def _tensors(self) -> list[Tensor]:
        buffers = [value for p in self._parameters for value in self._state.get(p, {}).values()]
        return [*self._parameters, *buffers]
