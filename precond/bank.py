"""Layers of one shape stacked on a leading axis L, so that every algorithm runs one batched operation for all of them.

A bank owns one preallocated buffer `[L, d_out, d_in]`. A step copies the gradients in, and the directions come out in
the same memory; the views of it that are shaped as the parameters are made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from precond import distributed
from precond.algorithm import Algorithm, Signals
from precond.diagnostics.monitor import Clock, Monitor, Tally
from precond.distributed import Ranks
from precond.layers import Layer
from precond.parts import linalg
from precond.parts.stacks import forget, named_tensors, part_of


class Switch:
    """Whether hooks record. An object of its own, so that they need not hold the bank."""

    on = True


class Bank:
    """Layers of equal shape, dtype, device and parameter group, with the state that an algorithm keeps for them.

    Args:
        algorithm: What preconditions them.
        layers: The layers; a grouped convolution takes as many slots of L as it has groups.
        group: Index of their parameter group.
    """

    def __init__(self, algorithm: Algorithm, layers: list[Layer], group: int):
        weight = layers[0].module.weight
        # Half-precision models keep their statistics in float32.
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self.algorithm = algorithm
        self.layers = layers
        self.group = group
        self.slots = dict(zip([layer.name for layer in layers], _slices(layers), strict=True))
        self.switch = Switch()
        # What the loss was multiplied by before its backward.
        self.grad_output_scale: float | Tensor = 1.0
        self.share: slice | None = None  # which slots this rank refreshes for all; None is every slot, for itself
        shape, num_slots = layers[0].shape, sum(layer.groups for layer in layers)
        with torch.no_grad():
            self.buffer = torch.zeros(num_slots, shape.d_out, shape.d_in, dtype=self.dtype, device=weight.device)
        self.monitor: Monitor | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything seen: the state of step 0."""
        names = [name for layer in self.layers for name in layer.slot_names]
        self.state = self.algorithm.new_state(self.layers[0].shape, names, like=self.buffer)
        self.recording = True
        self.has_factor = False
        # Which layers have statistics, and what this step has seen of them: known on the host, because hooks run there.
        self._filled: set[str] = set()
        self._recorded: set[str] = set()
        self._repeated: set[str] = set()
        self._complete = False  # whether all ranks know that every layer has
        self._mask = torch.zeros(len(names), dtype=torch.bool, device=self.buffer.device)
        self.tally = Tally(len(names), like=self.buffer)
        # The prepared state, which slots were made, which failed at first, and whether the step is not to count.
        self._refreshed: tuple[Any, Tensor, Tensor, Tensor | None] | None = None
        if self.monitor is not None:
            self.watch(self.monitor.clock)

    def watch(self, clock: Clock | None) -> None:
        """Start a monitor, or end it."""
        self.monitor = None
        if clock is not None:
            self.monitor = Monitor(self.algorithm, self.state, self.layers, self.buffer, clock)

    def dropped(self) -> Tensor:
        """Updates that the statistics left out, `[L]`."""
        counts = [tensor for name, tensor in named_tensors(self.state) if name.endswith("dropped")]
        return torch.stack(counts).sum(0)

    @property
    def recording(self) -> bool:
        """Whether the next forwards are recorded."""
        return self.switch.on

    @recording.setter
    def recording(self, on: bool) -> None:
        self.switch.on = on

    def views(self, layer: Layer) -> dict[str, Tensor]:
        """Views of the buffer shaped as the layer's parameters."""
        return layer.views(self.buffer[self.slots[layer.name]])

    @property
    def filled(self) -> bool:
        """Whether any layer has statistics."""
        return bool(self._filled)

    def unseen(self) -> list[Layer]:
        """Layers without statistics."""
        return [layer for layer in self.layers if layer.name not in self._filled]

    def only_repeated(self) -> list[str]:
        """Layers whose forward was seen in this step, but only while a backward ran."""
        return sorted(self._repeated - self._recorded)

    def note_repetition(self, layer: Layer) -> None:
        """A forward of this layer ran inside a backward."""
        self._repeated.add(layer.name)

    def record(self, layer: Layer, x: Tensor | None = None, gradient: Tensor | None = None) -> None:
        """Accumulate what one layer saw: its input, the gradient of its output, or both."""
        with linalg.exact_arithmetic(self.buffer.device):
            signals = Signals(
                inputs=None if x is None else layer.rows(x, self.dtype),
                output_gradients=None if gradient is None else self._output_gradients(layer, gradient),
                backward=torch._C._current_graph_task_id(),
            )
            self.algorithm.accumulate(self.state, self.slots[layer.name], signals)
            if self.monitor is not None:
                self.monitor.record(self.slots[layer.name], signals.inputs)
        self._recorded.add(layer.name)
        self._fill(layer)

    def _fill(self, layer: Layer) -> None:
        """Note that a layer has statistics."""
        if layer.name not in self._filled:
            self._filled.add(layer.name)
            self._mask[self.slots[layer.name]] = True

    def _output_gradients(self, layer: Layer, gradient: Tensor) -> Tensor:
        g = layer.output_gradients(gradient, self.dtype)
        scale = self.grad_output_scale
        return g if isinstance(scale, float) and scale == 1 else g / scale

    def _agree(self) -> None:
        """Let a layer that any rank has seen have statistics on all."""
        if not self._complete:
            flags = distributed.union([layer.name in self._filled for layer in self.layers], self.buffer.device)
            for layer, filled in zip(self.layers, flags, strict=True):
                if filled:
                    self._fill(layer)
            self._complete = all(flags)

    def update(self, refresh: bool, skipped: Tensor | None = None) -> list[tuple[Tensor, slice]]:
        """Commit what was recorded for this step; make new factors when due, or when there is none yet.

        Args:
            refresh: Whether new factors are due.
            skipped: Whether the step is not to count, on the device (`scaling.LossScale`).

        Returns:
            For `distributed.exchange`: the tensors of which only this rank's share was made, with that.
        """
        with linalg.exact_arithmetic(self.buffer.device):
            if skipped is not None:
                forget(self.state, skipped)
            if self.recording:
                self._agree()
                if self._filled:
                    self.algorithm.commit(self.state)
                    if self.monitor is not None:
                        self.monitor.commit(skipped)
            self._recorded.clear()
            self._repeated.clear()
            # The host must know whether the first factor was made of anything: until then it asks.
            first = not self.has_factor
            if not self._filled or not (refresh or first) or (first and skipped is not None and skipped):
                return []
            self.has_factor = True
            return self._refresh(skipped)

    def _refresh(self, skipped: Tensor | None) -> list[tuple[Tensor, slice]]:
        """Make new factors, or this rank's share of them, which is then returned."""
        state, share = self.algorithm.prepare(self.state), self.share
        made, failures = torch.zeros_like(self._mask), torch.zeros_like(self.tally.failed)
        self._refreshed = state, made, failures, skipped
        if share is None:
            with linalg.counting_failures(failures):
                made |= self.algorithm.refresh(state)
            self.note_refresh()
            return []
        if share.start < share.stop:
            with linalg.counting_failures(failures[share]):
                made[share] |= self.algorithm.refresh(part_of(state, share))
        tensors = named_tensors(self.state)
        shared = [tensor for name, tensor in tensors if name.split(".")[0] in self.algorithm.SHARED]
        return [(tensor, share) for tensor in (*shared, made, failures)]

    def note_refresh(self) -> None:
        """Count, and show the monitor, what a refresh came to; on all ranks, where they share it."""
        if self._refreshed is None:
            return
        state, made, failures, skipped = self._refreshed
        self._refreshed = None
        self.tally.failed += self._mask & ~(made if skipped is None else made | skipped)
        self.tally.rescued += self._mask & made & (failures > 0)
        if self.monitor is not None:
            with linalg.exact_arithmetic(self.buffer.device):
                self.monitor.refreshed(state, self._mask & made)

    def precondition(self, lr: float, measure: bool = False) -> Tensor | None:
        """Turn the gradients in the buffer into directions.

        A layer whose hook never fired keeps its gradient (`nn.MultiheadAttention` never calls its `out_proj`), and so,
        for this step, does one whose direction is not finite.

        Returns:
            Sum of <direction, gradient> over the layers that were preconditioned, if `measure`.
        """
        if not self.has_factor:
            return None
        directions = self.algorithm.precondition(self.state, self.buffer, lr)
        self._ok = linalg.all_finite(directions)
        # Where there is no gradient the buffer is nan throughout.
        self.tally.fallbacks += ~self._ok & ~self.buffer[:, 0, 0].isnan()
        if len(self._filled) < len(self.layers):
            self._ok &= self._mask
        if self.monitor is not None:
            self.monitor.compare(directions, self.buffer, self._ok)
        inner = (directions * self.buffer).sum((1, 2)).where(self._ok, 0).sum() if measure else None
        torch.where(self._ok.view(-1, 1, 1), directions, self.buffer, out=self.buffer)
        return inner

    def rescale(self, factor: Tensor) -> None:
        """Multiply the directions of the preconditioned layers by a scalar."""
        if self.has_factor:
            self.buffer *= torch.where(self._ok, factor.to(self.dtype), 1).view(-1, 1, 1)

    # ------------------------------------------------------------------ state, a layer at a time

    def layer_state(self, layer: Layer) -> dict[str, Any]:
        """The layer's part of the state: views `[groups, ...]` by name, and whether it has statistics."""
        slots = self.slots[layer.name]
        tensors = {name: tensor[slots] for name, tensor in named_tensors(self.state)}
        return {**tensors, "recorded": layer.name in self._filled, "has_factor": self.has_factor}

    def load_layer_state(self, layer: Layer, state: dict[str, Any]) -> None:
        """Copy in what `layer_state` returned; names and shapes have been compared."""
        slots = self.slots[layer.name]
        for name, tensor in named_tensors(self.state):
            tensor[slots].copy_(state[name])
        if state["recorded"]:
            self._fill(layer)
        self.has_factor = self.has_factor or state["has_factor"]


def make_banks(algorithm: Algorithm, layers: Iterable[Layer], group_of: Mapping[Tensor, int]) -> list[Bank]:
    """Group layers by shape, dtype, device and the parameter group of their weight."""
    alike: dict[Any, list[Layer]] = {}
    for layer in layers:
        weight = layer.module.weight
        alike.setdefault((layer.shape, weight.dtype, weight.device, group_of[weight]), []).append(layer)
    return [Bank(algorithm, members, group) for (*_, group), members in alike.items()]


def share_refresh(banks: Sequence[Bank], ranks: Ranks | None) -> None:
    """Let ranks share the refreshes, where the algorithm says that this is worth it."""
    if ranks is None or not all(bank.algorithm.SHARED for bank in banks):
        return
    shapes = [bank.buffer.shape for bank in banks]
    costs = [(slots, d_out**3 + d_in**3) for slots, d_out, d_in in shapes]  # a factorisation of each side
    for bank, share in zip(banks, distributed.shares(costs, ranks), strict=True):
        bank.share = share


def update(banks: Sequence[Bank], refresh: bool, skipped: Tensor | None) -> None:
    """Update every bank (see `Bank.update`), and complete what the ranks in force have shared."""
    distributed.exchange([part for bank in banks for part in bank.update(refresh, skipped)])
    for bank in banks:
        bank.note_refresh()


def _slices(layers: list[Layer]) -> list[slice]:
    ends = torch.tensor([layer.groups for layer in layers]).cumsum(0).tolist()
    return [slice(end - layer.groups, end) for layer, end in zip(layers, ends, strict=True)]
