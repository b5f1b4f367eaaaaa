"""Statistics: moving averages of what the layers saw, each with the weight that is needed to read it.

`add` runs in the hooks and keeps sums and row counts only. `commit` runs once per optimizer step and turns them into
one update of the moving average, so gradient accumulation, shared layers and data parallelism count rows, not calls.
All tensors are stacks over the slots of a bank, `[L, ...]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from precond.parts import collectives, linalg


@dataclass
class MovingAverage:
    """Exponential moving average of a mean over rows, started at zero and corrected by its own weight.

    Attributes:
        value: `[L, ...]`, the decayed sum.
        weight: `[L]` float64, 1 - decay^k after k updates of that slot.
        dropped: `[L]` int64, updates left out because they were not finite.
    """

    value: Tensor
    weight: Tensor
    dropped: Tensor
    # Between the first hook and the commit of a step; not part of the state.
    _sum: Tensor | None = field(default=None, repr=False)
    _count: Tensor | None = field(default=None, repr=False)

    @classmethod
    def zeros(cls, *shape: int, like: Tensor) -> MovingAverage:
        """An average without updates; `shape` starts with L."""
        return cls(
            value=like.new_zeros(shape),
            weight=like.new_zeros(shape[0], dtype=torch.float64),
            dropped=like.new_zeros(shape[0], dtype=torch.int64),
        )

    def add(self, slots: slice, total: Tensor, count: int) -> None:
        """Add a sum over `count` rows to some slots."""
        sums, counts = self._pending()
        sums[slots] += total
        counts[slots] += count

    def _pending(self) -> tuple[Tensor, Tensor]:
        """What was added since the last commit: sums `[L, ...]`, and over how many rows `[L]`."""
        if self._sum is None or self._count is None:
            self._sum, self._count = torch.zeros_like(self.value), torch.zeros_like(self.dropped)
        return self._sum, self._count

    def start_at_identity(self) -> None:
        """Let matrices start at I, with a weight that is never corrected for."""
        self.value.copy_(torch.eye(self.value.shape[-1]))
        self.weight.fill_(1)

    def commit(self, decay: float, copy_first: bool = False, power: int = 1) -> Tensor:
        """One update with what all ranks added since the last; slots without rows or with inf or nan stay as they are.

        Args:
            decay: Weight of the old value.
            copy_first: Whether a slot's first update has all the weight.
            power: Of the number of rows, by which the sum is divided.

        Returns:
            Which slots were updated, `[L]`.
        """
        if self._sum is None and not collectives.parallel():
            return torch.zeros_like(self.dropped, dtype=torch.bool)
        sums, counts = self._pending()
        collectives.add_up([sums, counts])
        self._sum = self._count = None
        rows = linalg.per_layer(counts.clamp(min=1).to(sums.dtype), sums)
        return self.update(sums / rows**power, counts > 0, decay, copy_first)

    def update(self, fresh: Tensor, seen: Tensor, decay: float, copy_first: bool = False) -> Tensor:
        """One update with values `[L, ...]` where they are `seen: [L]` and finite (see `commit`)."""
        finite = linalg.all_finite(fresh)
        ok = finite & seen
        self.dropped += ~finite
        if copy_first:  # then the rest of this update changes nothing
            first = ok & (self.weight == 0)
            self.value.copy_(linalg.select(first, fresh, self.value))
            self.weight.masked_fill_(first, 1)
        self.value.lerp_(linalg.select(ok, fresh.to(self.value.dtype), self.value), 1 - decay)
        self.weight.lerp_(ok.to(self.weight), (1 - decay) * ok.to(self.weight))
        return ok

    def forget(self, skipped: Tensor) -> None:
        """Drop what was added since the last commit, where `skipped` (a bool on the device)."""
        if self._sum is not None and self._count is not None:
            self._sum.masked_fill_(skipped, 0)
            self._count.masked_fill_(skipped, 0)

    def mean(self) -> Tensor:
        """The bias-corrected average, `[L, ...]`; zero where there was no update."""
        scale = torch.where(self.weight > 0, 1 / self.weight, 0).to(self.value.dtype)
        return self.value * linalg.per_layer(scale, self.value)


class Deferred(MovingAverage):
    """A moving average whose additions are kept in a list, to be made later or never.

    Args:
        target: The average to which the functions in the list add.
        additions: The list.
    """

    def __init__(self, target: MovingAverage, additions: list[Callable[[], None]]):
        super().__init__(target.value, target.weight, target.dropped)
        self._target, self._additions = target, additions

    def add(self, slots: slice, total: Tensor, count: int) -> None:
        """Append the addition of a sum over `count` rows to the list."""
        self._additions.append(partial(self._target.add, slots, total, count))


def output_gram(output_gradients: Tensor) -> Tensor:
    """Sum of g g^T over examples and positions, `[groups, o, o]`, for gradients `[groups, B, T, o]`."""
    positions, width = output_gradients.shape[2:]
    if (
        positions >= width
    ):  # a convolution's are transposed: then no copy, and the examples' products take less memory
        return (output_gradients.mT @ output_gradients).sum(1)
    rows = output_gradients.flatten(1, 2)
    return rows.mT @ rows


@dataclass
class KroneckerStatistic:
    """The two sides of a Kronecker product, averaged: matrices (KFAC) or vectors (Eva) of inputs and of gradients."""

    inputs: MovingAverage
    outputs: MovingAverage
    # First slot -> last backward: the calls of a shared layer in one backward bring the same examples again.
    _counted: dict[int, int] = field(default_factory=dict, repr=False)

    @classmethod
    def zeros(
        cls, num_layers: int, d_out: int, d_in: int, like: Tensor, axes: int = 2
    ) -> KroneckerStatistic:
        """Return a statistic without updates, of matrices (2 axes) or of vectors (1 axis)."""
        shapes = [axes * [width] for width in (d_in, d_out)]
        inputs, outputs = (MovingAverage.zeros(num_layers, *shape, like=like) for shape in shapes)
        return cls(inputs, outputs)

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the bias-corrected averages of output gradients and of inputs."""
        return self.outputs.mean(), self.inputs.mean()

    def add_outputs(self, slots: slice, total: Tensor, examples: int, backward: int) -> None:
        """Add a sum over examples (and all else), which are counted once in a backward; -1 is always another one."""
        again = backward >= 0 and self._counted.get(slots.start) == backward
        self._counted[slots.start] = backward
        self.outputs.add(slots, total, 0 if again else examples)

    def commit(self, decay: float, copy_first: bool = False, output_power: int = 1) -> Tensor:
        """Update both (see `MovingAverage.commit`); return the slots where both were updated, `[L]`."""
        return self.inputs.commit(decay, copy_first) & self.outputs.commit(
            decay, copy_first, output_power
        )
