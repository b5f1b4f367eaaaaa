"""Statistics: moving averages over steps, each stored with the weight that corrects its bias.

`add` runs in the hooks and accumulates sums and numbers of rows. `commit` runs once per optimizer
step and updates the moving average once. Therefore all rows of a step have the same weight, also
with gradient accumulation, shared layers and data parallelism. All tensors are stacks over the
slots of a bank, `[L, ...]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from precond.parts import collectives, linalg

Additions = list[Callable[[], None]]

_deferred: ContextVar[Additions | None] = ContextVar("deferred additions", default=None)


@contextmanager
def deferring(additions: Additions | None) -> Iterator[None]:
    """Inside the `with` block, append additions to averages to a list instead of executing them.

    The caller may execute them later. If the list is None, additions are executed immediately.
    """
    token = _deferred.set(additions)
    try:
        yield
    finally:
        _deferred.reset(token)


@dataclass
class MovingAverage:
    """Exponential moving average of a mean over rows, with bias correction.

    Attributes:
        value: The decayed sum, `[L, ...]`, initially zero.
        weight: 1 - decay^k after k updates of a slot, or 1 without bias correction, `[L]` in float64.
        dropped: Number of updates that were dropped because they were not finite, `[L]` in int64.
    """

    value: Tensor
    weight: Tensor
    dropped: Tensor
    # Sums and row counts since the last commit; not part of the saved state.
    _sum: Tensor | None = field(default=None, repr=False)
    _count: Tensor | None = field(default=None, repr=False)

    @classmethod
    def zeros(cls, *shape: int, like: Tensor) -> MovingAverage:
        """Return an average without updates; `shape` starts with L."""
        return cls(
            value=like.new_zeros(shape),
            weight=like.new_zeros(shape[0], dtype=torch.float64),
            dropped=like.new_zeros(shape[0], dtype=torch.int64),
        )

    def add(self, slots: slice, total: Tensor, count: int) -> None:
        """Add a sum over `count` rows to some slots, unless `deferring` defers the addition."""
        if (additions := _deferred.get()) is not None:
            additions.append(partial(self._add, slots, total, count))
        else:
            self._add(slots, total, count)

    def _add(self, slots: slice, total: Tensor, count: int) -> None:
        sums, counts = self._pending()
        sums[slots] += total
        counts[slots] += count

    def _pending(self) -> tuple[Tensor, Tensor]:
        """Return the sums `[L, ...]` and numbers of rows `[L]` since the last commit."""
        if self._sum is None or self._count is None:
            self._sum, self._count = torch.zeros_like(self.value), torch.zeros_like(self.dropped)
        return self._sum, self._count

    def start_at_identity(self) -> None:
        """Set the initial value to the identity, without bias correction."""
        self.value.copy_(torch.eye(self.value.shape[-1]))
        self.weight.fill_(1)

    def discard(self, slots: slice) -> None:
        """Discard what was added to some slots since the last commit."""
        if self._sum is not None and self._count is not None:
            self._sum[slots] = 0
            self._count[slots] = 0

    def rescale(self, factor: Tensor) -> None:
        """Multiply the sums since the last commit by a factor."""
        if self._sum is not None:
            self._sum.mul_(factor)

    def commit(self, decay: float, copy_first: bool = False, power: int = 1) -> Tensor:
        """Update the average with the sums that all ranks have added since the last commit.

        Slots without rows, and slots whose sum is not finite, do not change.

        Args:
            decay: Weight of the old value.
            copy_first: Give the first update of a slot the weight 1, without bias correction.
            power: Divide the sum by this power of the number of rows.

        Returns:
            A mask of the slots that were updated, `[L]`.
        """
        if self._sum is None and not collectives.parallel():
            return torch.zeros_like(self.dropped, dtype=torch.bool)
        sums, counts = self._pending()
        collectives.add_up([sums, counts])
        self._sum = self._count = None
        rows = linalg.per_layer(counts.clamp(min=1).to(sums.dtype), sums)
        return self.update(sums / rows**power, counts > 0, decay, copy_first)

    def update(self, fresh: Tensor, seen: Tensor, decay: float, copy_first: bool = False) -> Tensor:
        """Update the average with the values `fresh [L, ...]`.

        Slots whose values are not finite, or for which `seen [L]` is False, do not change. See
        `commit` for `decay`, `copy_first` and the returned mask.
        """
        finite = linalg.all_finite(fresh)
        ok = finite & seen
        self.dropped += ~finite
        if copy_first:  # in the slots `first`, the two `lerp_` below then have no effect
            first = ok & (self.weight == 0)
            self.value.copy_(linalg.select(first, fresh, self.value))
            self.weight.masked_fill_(first, 1)
        self.value.lerp_(linalg.select(ok, fresh.to(self.value.dtype), self.value), 1 - decay)
        self.weight.lerp_(ok.to(self.weight), (1 - decay) * ok.to(self.weight))
        return ok

    def forget(self, skipped: Tensor) -> None:
        """Discard the sums since the last commit if `skipped` (a bool tensor) is True."""
        if self._sum is not None and self._count is not None:
            self._sum.masked_fill_(skipped, 0)
            self._count.masked_fill_(skipped, 0)

    def mean(self) -> Tensor:
        """Return the bias-corrected average, `[L, ...]`; zero in slots without updates."""
        scale = torch.where(self.weight > 0, 1 / self.weight, 0).to(self.value.dtype)
        return self.value * linalg.per_layer(scale, self.value)


def output_gram(output_gradients: Tensor) -> Tensor:
    """Return the sum of g g^T, `[groups, o, o]`, for gradients `[groups, B, T, o]`."""
    positions, width = output_gradients.shape[2:]
    # The gradients of a convolution are transposed views, which `flatten` would copy. With many
    # positions, the products of single examples take less memory than this copy.
    if positions >= width:
        return (output_gradients.mT @ output_gradients).sum(1)
    rows = output_gradients.flatten(1, 2)
    return rows.mT @ rows


@dataclass
class KroneckerStatistic:
    """Averages for the two sides of a Kronecker product: matrices (KFAC) or vectors (Eva).

    Attributes:
        inputs: Average over the inputs.
        outputs: Average over the output gradients.
    """

    inputs: MovingAverage
    outputs: MovingAverage
    # First slot of a layer -> number of its last backward. All calls of a shared layer in one
    # backward have the same examples, which must be counted once.
    _counted: dict[int, int] = field(default_factory=dict, repr=False)

    @classmethod
    def zeros(
        cls, num_layers: int, d_out: int, d_in: int, like: Tensor, axes: int = 2
    ) -> KroneckerStatistic:
        """Return a statistic without updates, of matrices (`axes=2`) or of vectors (`axes=1`)."""
        shapes = [axes * [width] for width in (d_in, d_out)]
        inputs, outputs = (MovingAverage.zeros(num_layers, *shape, like=like) for shape in shapes)
        return cls(inputs, outputs)

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the bias-corrected averages of the output gradients and of the inputs."""
        return self.outputs.mean(), self.inputs.mean()

    def add_outputs(self, slots: slice, total: Tensor, examples: int, backward: int) -> None:
        """Add a sum over examples and positions; count the examples once per backward.

        A negative number always counts as a new backward.
        """
        counted = backward >= 0 and self._counted.get(slots.start) == backward
        self._counted[slots.start] = backward
        self.outputs.add(slots, total, 0 if counted else examples)

    def rescale(self, factor: Tensor) -> None:
        """Multiply the output gradients that were added since the last commit by a factor."""
        degree = self.outputs.value.dim() - 1  # matrices contain products of two gradients
        self.outputs.rescale(factor**degree)

    def commit(self, decay: float, copy_first: bool = False, output_power: int = 1) -> Tensor:
        """Update both averages (see `MovingAverage.commit`).

        Returns:
            A mask of the slots in which both averages were updated, `[L]`.
        """
        inputs = self.inputs.commit(decay, copy_first)
        return inputs & self.outputs.commit(decay, copy_first, output_power)
