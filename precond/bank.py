"""Layers of one shape, stacked on a leading axis L.

Every algorithm runs one batched operation for all layers of a bank. A bank has one preallocated
buffer `[L, d_out, d_in]`. A step copies the gradients into the buffer and then overwrites them with
the directions. The views of the buffer with the shapes of the parameters are created once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from precond.algorithm import Algorithm, Means
from precond.diagnostics.monitor import Clock, Monitor, Tally
from precond.forwards import Forwards
from precond.layers import Layer
from precond.parts import collectives, linalg
from precond.parts.linalg import Outcome
from precond.parts.stacks import forget, named_tensors, part_of
from precond.passes import Pass
from precond.recording import Recorder


class Bank(Recorder):
    """Layers of equal shape, dtype, device and parameter group, and the algorithm's state for them.

    Args:
        algorithm: The optimizer's algorithm; the bank uses `algorithm.for_shape(shape)`.
        layers: The layers; a grouped convolution has one slot of the axis L for each group.
        group: Index of the layers' parameter group.
        wait: See `Forwards`.
    """

    def __init__(
        self, algorithm: Algorithm[Any], layers: list[Layer], group: int, wait: bool = True
    ):
        super().__init__(algorithm, layers)
        self.group = group
        # The slots that this rank refreshes for all ranks. None: every rank refreshes all slots.
        self.share: slice | None = None
        self._wait = wait
        self.reset()

    def reset(self) -> None:
        """Reset the bank to the state of step 0, in the present dtype of the weights."""
        names = [name for layer in self.layers for name in layer.slot_names]
        weight, shape = self.layers[0].weight, self.layers[0].shape
        # Half-precision models keep their statistics in float32.
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        size = len(names), shape.d_out, shape.d_in
        with torch.no_grad():
            self.buffer = torch.zeros(size, dtype=self.dtype, device=weight.device)
        self.state = self.algorithm.new_state(shape, names, like=self.buffer)
        self.recording = True
        self.has_factor = False
        # Names of layers. These sets are on the host, where the hooks run.
        self._filled: set[str] = set()  # layers with statistics
        same_examples = self.forwards.same_examples if hasattr(self, "forwards") else True
        self.forwards = Forwards(self, self.algorithm.NEEDS, self._wait, same_examples)
        self._repeated = set()
        self._complete = False  # all ranks know that every layer has statistics
        self._pass = Pass(self.buffer) if self.algorithm.SECOND_PASS else None
        self.in_second_pass = False
        # True for the slots of the layers with statistics.
        self._mask = torch.zeros(len(names), dtype=torch.bool, device=self.buffer.device)
        self.tally = Tally(torch.zeros_like(self._mask, dtype=torch.int64))
        # A refresh that `note_refresh` has not counted yet: the prepared state, the outcome, and
        # the flag `skipped` of the step.
        self._refreshed: tuple[Any, Outcome, Tensor | None] | None = None
        if self.monitor is not None:
            self.watch(self.monitor.clock)

    def watch(self, clock: Clock | None) -> None:
        """Start a monitor with this clock, or stop the monitor if the clock is None."""
        arguments = self.algorithm, self.state, self.layers, self.buffer
        self.monitor = None if clock is None else Monitor(*arguments, clock)

    def follow(self, group: Mapping[str, Any]) -> None:
        """Use the current hyperparameters of the parameter group."""
        if self.algorithm.VARIABLE:
            self.algorithm = self.algorithm.for_group(group)

    def views(self, layer: Layer) -> dict[str, Tensor]:
        """Return views of the buffer, shaped as the layer's parameters."""
        return layer.views(self.buffer[self.slots[layer.name]])

    @property
    def filled(self) -> bool:
        """True if any layer has statistics."""
        return bool(self._filled)

    def unseen(self) -> list[Layer]:
        """Return the layers without statistics."""
        return [layer for layer in self.layers if layer.name not in self._filled]

    @property
    def backwards(self) -> set[int]:
        """The numbers of the backwards in the current evaluation of a batch."""
        return set() if self._pass is None else self._pass.backwards

    def take_means(self) -> Means:
        """Return the means of an evaluation of the model with its current weights."""
        assert self._pass is not None
        weights = torch.empty_like(self.buffer)
        for layer in self.layers:
            for name, view in layer.views(weights[self.slots[layer.name]]).items():
                view.copy_(getattr(layer.module, name))
        with linalg.exact_arithmetic(self.buffer.device):
            return self._pass.take(weights)

    def compare(self, before: Means) -> None:
        """Pass the means of the first and of the second evaluation of a batch to the algorithm."""
        with linalg.exact_arithmetic(self.buffer.device):
            self.algorithm.second_pass(self.state, before, self.take_means())

    def _mark_filled(self, layer: Layer) -> None:
        """Note that a layer has statistics."""
        if layer.name not in self._filled:
            self._filled.add(layer.name)
            self._mask[self.slots[layer.name]] = True

    def _exchange_filled(self) -> None:
        """Mark, on all ranks, each layer that has statistics on any rank."""
        if not self._complete:
            flags = collectives.union(
                [layer.name in self._filled for layer in self.layers], self.buffer.device
            )
            for layer, filled in zip(self.layers, flags, strict=True):
                if filled:
                    self._mark_filled(layer)
            self._complete = all(flags)

    def update(self, refresh: bool, skipped: Tensor | None = None) -> list[tuple[Tensor, slice]]:
        """Commit the signals of this step; compute new factors if they are due or none exist.

        Args:
            refresh: True if new factors are due.
            skipped: True if the step is skipped, as a tensor on the device (`scaling.LossScale`).

        Returns:
            The argument of `distributed.exchange`: each tensor of which this rank has computed only
            its share of the slots, with that share. Empty if the ranks do not split the refresh.
        """
        with linalg.exact_arithmetic(self.buffer.device):
            self.forwards.finish(self.layers)
            if skipped is not None:
                forget(self.state, skipped)
            for layer in self.layers:
                if layer.name in self.forwards.added:
                    self._mark_filled(layer)
            if self.recording:
                self._exchange_filled()
                if self._filled:
                    self.algorithm.commit(self.state)
                    if self.monitor is not None:
                        self.monitor.commit(skipped)
            self.forwards.end_step()
            self._repeated.clear()
            # The first factor needs the data of a step that is not skipped. Until there is a
            # factor, the host therefore reads `skipped` from the device.
            first = not self.has_factor
            due = self._filled and (refresh or first)
            if not due:
                return []
            if first and skipped is not None and skipped:
                self.discard(self.layers)  # signals that a method keeps for its refresh
                return []
            self.has_factor = True
            return self._refresh(skipped)

    def _refresh(self, skipped: Tensor | None) -> list[tuple[Tensor, slice]]:
        """Compute the new factors, or only this rank's share; return the same as `update`."""
        state, share = self.algorithm.prepare(self.state), self.share
        if share is None:
            self._refreshed = state, self.algorithm.refresh(state), skipped
            self.note_refresh()
            return []
        outcome = Outcome(torch.zeros_like(self._mask), torch.zeros_like(self._mask))
        self._refreshed = state, outcome, skipped
        if share.start < share.stop:
            partial = self.algorithm.refresh(part_of(state, share))
            outcome.ok[share], outcome.retried[share] = partial.ok, partial.retried
        tensors = named_tensors(self.state)
        shared = [tensor for name, tensor in tensors if name.split(".")[0] in self.algorithm.SHARED]
        return [(tensor, share) for tensor in (*shared, *outcome)]

    def note_refresh(self) -> None:
        """Update the failure counters and the monitor after a refresh.

        Call this when all ranks know the outcome of the refresh.
        """
        if self._refreshed is None:
            return
        state, (ok, retried), skipped = self._refreshed
        self._refreshed = None
        self.tally.failed += self._mask & ~(ok if skipped is None else ok | skipped)
        self.tally.rescued += self._mask & ok & retried
        if self.monitor is not None:
            with linalg.exact_arithmetic(self.buffer.device):
                self.monitor.refreshed(state, self._mask & ok)

    def precondition(
        self, lr: float, measure: bool = False, refill: Callable[[], None] | None = None
    ) -> Tensor | None:
        """Replace the gradients in the buffer by directions.

        The direction of a layer without statistics is its gradient. (`out_proj` of
        `nn.MultiheadAttention` is such a layer, because its forward is never called.) If a
        direction is not finite, it is replaced by the gradient for this step.

        Args:
            lr: Learning rate of the bank's parameter group.
            measure: True if the caller needs the returned sum.
            refill: A function that copies the gradients into the buffer again. With it, the
                directions may overwrite the gradients.

        Returns:
            The sum of <direction, gradient> over the preconditioned layers if `measure` is True and
            there is a factor, else None.
        """
        if not self.has_factor:
            return None
        overwrite = refill is not None and not measure and self._overwrites()
        directions = self.algorithm.precondition(self.state, self.buffer, lr, overwrite)
        # True for the slots whose gradient is replaced by the direction.
        self._ok = linalg.all_finite(directions)
        if overwrite and refill is not None:
            if self._ok.all():
                if directions is not self.buffer:
                    self.buffer.copy_(directions)
                return None
            if directions is self.buffer:
                directions = directions.clone()
                refill()
        # Without a gradient, or in a skipped step, the buffer of a slot is all nan. Such a slot is
        # not counted as a fallback to the gradient.
        self.tally.fallbacks += ~self._ok & ~self.buffer[:, 0, 0].isnan()
        if len(self._filled) < len(self.layers):
            self._ok &= self._mask
        if self.monitor is not None:
            self.monitor.compare(directions, self.buffer, self._ok)
        inner = (directions * self.buffer).sum((1, 2)).where(self._ok, 0).sum() if measure else None
        torch.where(self._ok.view(-1, 1, 1), directions, self.buffer, out=self.buffer)
        return inner

    def _overwrites(self) -> bool:
        """Return True if the directions may overwrite the gradients in this step.

        The host must read whether all directions are finite, which is cheap on a CPU only.
        """
        measuring = self.monitor is not None and self.monitor.measuring
        complete = len(self._filled) == len(self.layers)
        return self.buffer.device.type == "cpu" and complete and not measuring

    def rescale(self, factor: Tensor) -> None:
        """Multiply the directions of the preconditioned layers by a scalar."""
        if self.has_factor:
            self.buffer *= torch.where(self._ok, factor.to(self.dtype), 1).view(-1, 1, 1)

    def layer_state(self, layer: Layer) -> dict[str, Any]:
        """Return the layer's part of the state.

        It contains views `[groups, ...]` of the tensors by name, and the flags `recorded` (the
        layer has statistics) and `has_factor`.
        """
        slots = self.slots[layer.name]
        tensors = {name: tensor[slots] for name, tensor in named_tensors(self.state)}
        return {**tensors, "recorded": layer.name in self._filled, "has_factor": self.has_factor}

    def load_layer_state(self, layer: Layer, state: Mapping[str, Any]) -> None:
        """Load a state that `layer_state` returned.

        The caller must have compared the names and shapes of the tensors.
        """
        slots = self.slots[layer.name]
        for name, tensor in named_tensors(self.state):
            tensor[slots].copy_(state[name])
        if state["recorded"]:
            self._mark_filled(layer)
        self.has_factor = self.has_factor or state["has_factor"]
