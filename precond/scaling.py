"""Loss scaling by `torch.amp.GradScaler`; in most steps, the host does not wait for the device.

The scaler passes its scale, and a flag that is set if a gradient is inf or nan, as tensors on the
device. If the flag is set, the step must change nothing: the statistics of the step are discarded,
the gradients are set to nan, which no algorithm adds to its state, and the parameters and buffers
are restored. A refresh that is due is still computed, from the earlier statistics, and the step is
counted. These operations run in every step under a scaler, because the host does not read the flag.
There are two exceptions: the host reads the flag at the first refresh of a bank (`Bank.update`), and
in each step if there are buffers on the CPU (`Undo`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from precond.shared import Shared


class HandlesScale:
    """The part of an optimizer whose `step`, not GradScaler, unscales gradients and skips steps."""

    _in_closure = Shared(False)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """True, except while a closure runs: GradScaler calls `step` without a closure.

        Lightning clips the gradients in the closure, and refuses to clip if the attribute is True.
        """
        return not self._in_closure

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        """Return the loss of a step's closure, evaluated with gradients, or None without one."""
        self._in_closure = True
        try:
            return evaluate(closure)
        finally:
            self._in_closure = False


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """Return the loss of a step's closure, evaluated with gradients, or None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


@dataclass(frozen=True)
class LossScale:
    """The values of the scaler for one step.

    Attributes:
        inverse: The factor that removes the scale from the gradients; None if `scaler.unscale_` has
            already removed it.
        skipped: A bool on the device, True if the step must change nothing.
    """

    inverse: Tensor | None
    skipped: Tensor

    @classmethod
    def of(cls, optimizer: Optimizer) -> LossScale | None:
        """Return the values that `GradScaler.step` has set on the optimizer, or None.

        The scaler sets them if the optimizer has the attribute `_step_supports_amp_scaling`.
        """
        infinite: Tensor | None = getattr(optimizer, "found_inf", None)
        if infinite is None:
            return None
        scale: Tensor | None = getattr(optimizer, "grad_scale", None)
        inverse = None if scale is None else scale.double().reciprocal().float()
        return cls(inverse, infinite.reshape(()) > 0)

    def unscale(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return the gradients without the scale, as new tensors if they were scaled."""
        if self.inverse is None:
            return gradients
        return list(torch._foreach_mul(gradients, self.inverse))

    def unscale_and_mask(self, buffer: Tensor) -> None:
        """Remove the scale from gradients `[L, o, p]` in place; set them to nan if skipped."""
        if self.inverse is not None:
            buffer.mul_(self.inverse)
        buffer.masked_fill_(self.skipped, torch.nan)


class Undo:
    """The values of parameters and their buffers before a step.

    For a buffer that the step creates, the value before the step is zero.
    """

    def __init__(self, parameters: Iterable[Tensor], state: dict[Tensor, dict[str, Any]]):
        self._parameters, self._state = list(parameters), state
        self._before = {tensor: tensor.clone() for tensor in self._tensors()}

    def restore_where(self, skipped: Tensor) -> None:
        """Restore the values if the step is skipped."""
        # A copy to the CPU must be complete before it is used: the host waits for this one flag if
        # there are buffers on the CPU, such as the step counts of torch's Adam.
        flags = {
            device: skipped.to(device, non_blocking=device.type != "cpu")
            for device in {tensor.device for tensor in self._tensors()}
        }
        for tensor in self._tensors():
            before = self._before.get(tensor)
            before = torch.zeros_like(tensor) if before is None else before
            tensor.copy_(torch.where(flags[tensor.device], before, tensor))

    def _tensors(self) -> list[Tensor]:
        entries = [self._state.get(p, {}) for p in self._parameters]
        buffers = [v for entry in entries for v in entry.values() if isinstance(v, Tensor)]
        return [*self._parameters, *buffers]
