"""What is accumulated from the layers' inputs. A statistic owns all that is needed to read it: weight and sketch.

`add` runs in the forward hook and keeps sums and row counts only; `commit` runs once per optimizer step and makes them
one update of the moving average, so that accumulation, shared layers and data parallelism count rows, not calls.
All tensors are stacks over the slots of a bank, `[L, ...]`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from precond import linalg


class Rows(Protocol):
    """A layer's inputs in one forward: the matrix X `[N, p]` of rows a, one for each of `groups` weight blocks.

    X is never formed. p counts the bias: its column is the last, and all ones.
    """

    @property
    def count(self) -> int:
        """Number of rows N: examples times positions that share the weight."""
        ...

    def gram(self) -> Tensor:
        """`X^T X`, `[groups, p, p]`."""
        ...

    def sketch(self, test_matrix: Tensor) -> Tensor:
        """`X^T (X Omega)`, `[groups, p, r]`, for Omega `[groups, p, r]`."""
        ...

    def sketch_columns(self, columns: Tensor) -> Tensor:
        """`X^T X[:, columns]`, `[groups, p, r]`, for column numbers `[groups, r]`."""
        ...


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
        if self._sum is None or self._count is None:
            self._sum, self._count = torch.zeros_like(self.value), torch.zeros_like(self.dropped)
        self._sum[slots] += total
        self._count[slots] += count

    def commit(self, decay: float) -> None:
        """One update with what was added since the last; slots without rows or with inf or nan stay as they are."""
        if self._sum is None or self._count is None:
            return
        fresh = self._sum / self._count.clamp(min=1).view(-1, *[1] * (self.value.dim() - 1))
        finite = linalg.all_finite(fresh)
        ok = finite & (self._count > 0)
        self.dropped += ~finite
        self.value.lerp_(linalg.select(ok, fresh.to(self.value.dtype), self.value), 1 - decay)
        self.weight.lerp_(ok.to(self.weight), (1 - decay) * ok.to(self.weight))
        self._sum = self._count = None

    def mean(self) -> Tensor:
        """The bias-corrected average, `[L, ...]`; zero where there was no update."""
        scale = torch.where(self.weight > 0, 1 / self.weight, 0).to(self.value.dtype)
        return self.value * scale.view(-1, *[1] * (self.value.dim() - 1))


@dataclass
class Covariance:
    """A = (1/N) sum a a^T over rows, averaged over steps."""

    average: MovingAverage

    @classmethod
    def zeros(cls, num_layers: int, width: int, like: Tensor) -> Covariance:
        """No updates yet; A will be `[num_layers, width, width]`."""
        return cls(MovingAverage.zeros(num_layers, width, width, like=like))

    def add(self, slots: slice, rows: Rows) -> None:
        """Accumulate one forward of one layer."""
        self.average.add(slots, rows.gram(), rows.count)


@dataclass
class ColumnSketch:
    """Omega picks r distinct columns of the identity, so X Omega is r columns of X. `columns: [L, r]`."""

    columns: Tensor

    @classmethod
    def draw(cls, layers: Sequence[str], width: int, rank: int, seed: int, like: Tensor) -> ColumnSketch:
        """Columns drawn without replacement, for each slot from hash(seed, slot name)."""
        drawn = [torch.randperm(width, generator=_generator(seed, name))[:rank] for name in layers]
        return cls(torch.stack(drawn).to(like.device))

    def products(self, slots: slice, rows: Rows) -> Tensor:
        """`X^T X Omega`, `[groups, p, r]`."""
        return rows.sketch_columns(self.columns[slots])

    def add_to(self, matrix: Tensor, scale: Tensor) -> Tensor:
        """`matrix + scale Omega` for a matrix `[L, p, r]` and a scale `[L]`."""
        ids = self.columns.unsqueeze(1)
        return matrix.scatter_add(1, ids, scale.view(-1, 1, 1).expand_as(ids))

    def core(self, matrix: Tensor) -> Tensor:
        """`Omega^T matrix`, `[L, r, r]`."""
        return matrix.gather(1, self.columns.unsqueeze(2).expand(-1, -1, matrix.shape[2]))


@dataclass
class GaussianSketch:
    """Omega is a Gaussian matrix made orthonormal, which keeps the core well conditioned. `omega: [L, p, r]`."""

    omega: Tensor

    @classmethod
    def draw(cls, layers: Sequence[str], width: int, rank: int, seed: int, like: Tensor) -> GaussianSketch:
        """Drawn for each slot from hash(seed, slot name), on the CPU in float64: the same on every device and rank."""
        shape = (width, rank)
        drawn = [torch.randn(shape, generator=_generator(seed, name), dtype=torch.float64) for name in layers]
        return cls(torch.linalg.qr(torch.stack(drawn)).Q.to(like))

    def products(self, slots: slice, rows: Rows) -> Tensor:
        """`X^T X Omega`, `[groups, p, r]`."""
        return rows.sketch(self.omega[slots])

    def add_to(self, matrix: Tensor, scale: Tensor) -> Tensor:
        """`matrix + scale Omega` for a matrix `[L, p, r]` and a scale `[L]`."""
        return matrix + scale.view(-1, 1, 1) * self.omega.to(matrix.dtype)

    def core(self, matrix: Tensor) -> Tensor:
        """`Omega^T matrix`, `[L, r, r]`."""
        return self.omega.to(matrix.dtype).mT @ matrix


@dataclass
class SketchedCovariance:
    """C = A Omega, averaged over steps, with the Omega that it belongs to: they are useless apart."""

    average: MovingAverage
    sketch: ColumnSketch | GaussianSketch

    @classmethod
    def zeros(cls, sketch: ColumnSketch | GaussianSketch, width: int, rank: int, like: Tensor) -> SketchedCovariance:
        """No updates yet; C will be `[L, width, rank]`."""
        num_layers = sketch.columns.shape[0] if isinstance(sketch, ColumnSketch) else sketch.omega.shape[0]
        return cls(MovingAverage.zeros(num_layers, width, rank, like=like), sketch)

    def add(self, slots: slice, rows: Rows) -> None:
        """Accumulate one forward of one layer."""
        self.average.add(slots, self.sketch.products(slots, rows), rows.count)


def _generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator seeded by hash(seed, name)."""
    bits = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(bits[:8], "big") >> 1)
