"""The properties and methods of an optimizer that concern its layers and what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from precond.diagnostics import measures as diagnostics
from precond.diagnostics.monitor import Clock
from precond.layer_coverage import Coverage, count
from precond.layers import Layer, plain_modules, uncalled
from precond.saving import Saved


class Controls(Saved):
    """The part of an optimizer with which users inspect its layers and control the recording."""

    _layers: dict[str, Layer]
    _skipped: dict[str, str]
    _has_output_scale: bool

    @property
    def steps(self) -> int:
        """The number of steps so far. The groups contain it, as `step`."""
        return self.param_groups[0]["step"]

    @steps.setter
    def steps(self, value: int) -> None:
        for group in self.param_groups:
            group["step"] = value

    def preconditioned_layers(self) -> list[str]:
        """Return the names of the layers whose gradients are preconditioned."""
        skipped = self.skipped_layers()
        names = plain_modules(self._model)
        return [name for name in names if name in self._layers and name not in skipped]

    def skipped_layers(self) -> dict[str, str]:
        """Return the modules whose parameters follow their gradient, each with the reason.

        After the first step, these include layers whose forward has never been recorded.
        """
        unseen = {layer.name for bank in self._banks for layer in bank.unseen()}
        absent = dict.fromkeys(unseen, "its forward has not been recorded") if self.steps else {}
        unusable = {name: text for bank in self._banks for name, text in bank.unusable.items()}
        reasons = {**uncalled(self._model), **unusable}
        known = {name: text for name, text in reasons.items() if name in unseen}
        skipped = {**self._skipped, **absent, **known}
        return {name: skipped[name] for name in plain_modules(self._model) if name in skipped}

    def coverage(self) -> Coverage:
        """Return the numbers of layers and parameters that are preconditioned."""
        layers = [self._layers[name] for name in self.preconditioned_layers()]
        return count(
            modules=plain_modules(self._model).values(),
            parameters=[p for group in self.param_groups for p in group["params"]],
            preconditioned=[p for layer in layers for p in layer.parameters.values()],
        )

    @property
    def batch_first(self) -> bool | None:
        """False if the inputs of Linear layers are `[positions, batch, d_in]`, else True.

        A module with an attribute `batch_first`, such as `nn.MultiheadAttention` or `nn.LSTM`,
        declares the order for the layers in it and in its parent module. This property applies to
        all other layers. Its default is None (unknown) if any module has `batch_first=False`,
        else True. With None, methods that use output gradients raise an error in a forward of such
        a layer if its input has more than two axes. Set this property before the first forward.
        """
        return self._banks[0].batch_first

    @batch_first.setter
    def batch_first(self, value: bool | None) -> None:
        for bank in self._banks:
            bank.batch_first = value

    @property
    def same_examples(self) -> bool:
        """True if the calls of a layer in one backward have the same examples (the default).

        For example, several modules that share a layer call it with the same examples. Set this
        property to False if the examples differ, for example if a GAN's discriminator is called
        with a real and with a generated batch; the loss must be the mean over the examples of all
        calls. Calls with different numbers of examples are always treated as different examples.
        Only methods that use output gradients depend on this property.
        """
        return self._banks[0].forwards.same_examples

    @same_examples.setter
    def same_examples(self, value: bool) -> None:
        for bank in self._banks:
            bank.forwards.same_examples = value

    @property
    def grad_output_scale(self) -> float | Tensor:
        """The factor by which the loss is scaled in the backward.

        Methods that use output gradients divide them by this factor. The default 1.0 is correct if
        each loss is the mean over the batch of its backward. Otherwise, set the product of those
        factors that apply:

        * under `torch.amp.GradScaler`: the scale, as the tensor
          `scaler.scale(torch.ones((), device=...))`, so that the host does not wait for the device.
          If this property has never been set, `step` divides by the scale itself, and
          `scaler.unscale_` before `step` is an error, because it hides the scale from `step`
        * if each of c accumulated losses is divided by c: 1 / c
        * if the ranks have different numbers of examples: local examples x ranks / all examples
        """
        return self._banks[0].grad_output_scale

    @grad_output_scale.setter
    def grad_output_scale(self, scale: float | Tensor) -> None:
        self._has_output_scale = True
        for bank in self._banks:
            bank.grad_output_scale = scale

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the forwards in this block from the statistics."""
        before = [bank.recording for bank in self._banks]
        try:
            for bank in self._banks:
                bank.recording = False
            yield
        finally:
            for bank, recording in zip(self._banks, before, strict=True):
                bank.recording = recording

    def monitor(self, on: bool = True) -> Clock | None:
        """Start or stop computing the measures that `diagnostics` returns.

        Returns:
            A clock that measures the time of these computations, or None if `on` is False.
        """
        return diagnostics.watch(self._banks, on)

    @torch.no_grad()
    def diagnostics(self) -> dict[str, dict[str, float | None]]:
        """Return the measures and counts of each layer since the last call.

        `docs/diagnostics.md` defines them. Without a monitor, the measures are None.
        """
        table = diagnostics.read(self._banks)
        return {name: table[name] for name in self._layers}
