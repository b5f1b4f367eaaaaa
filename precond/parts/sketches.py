"""Sketched covariances C = A Omega, and the random draws of their test matrices Omega."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from precond.parts.linalg import Outcome
from precond.parts.rows import Rows
from precond.parts.statistics import MovingAverage

ALL = slice(None)


@dataclass
class Draws:
    """The random draws of the test matrices: draw n of a slot is seeded by hash(seed, name, n).

    The generators are on the CPU, so that each draw is the same on all devices and ranks.
    `number: [L]` (int64, on the CPU) contains the number n of the current draw of each slot.
    """

    number: Tensor
    _names: Sequence[str]
    _seed: int

    @classmethod
    def first(cls, names: Sequence[str], seed: int) -> Draws:
        """Return draw 0 of all slots."""
        return cls(torch.zeros(len(names), dtype=torch.int64), names, seed)

    def generators(self, slots: slice, advance: int) -> list[torch.Generator]:
        """Advance some slots by `advance` draws; return a generator for each new draw."""
        self.number[slots] += advance
        draws = zip(self._names[slots], self.number[slots].tolist(), strict=True)
        return [
            torch.Generator().manual_seed(seed_of(self._seed, name, number))
            for name, number in draws
        ]


@dataclass
class ColumnSketch:
    """A test matrix of r distinct columns of the identity, so that X Omega is r columns of X.

    `columns: [L, r]` contains their indices.
    """

    columns: Tensor
    width: int
    draws: Draws

    @classmethod
    def draw(
        cls, layers: Sequence[str], width: int, rank: int, seed: int, like: Tensor
    ) -> ColumnSketch:
        """Return the first draw of each slot."""
        columns = torch.empty(len(layers), rank, dtype=torch.int64, device=like.device)
        sketch = cls(columns, width, Draws.first(layers, seed))
        sketch.redraw(advance=0)
        return sketch

    def redraw(self, slots: slice = ALL, advance: int = 1) -> None:
        """Replace the columns of some slots by a later draw."""
        rank = self.columns.shape[1]
        generators = self.draws.generators(slots, advance)
        drawn = [torch.randperm(self.width, generator=g)[:rank] for g in generators]
        self.columns[slots] = torch.stack(drawn).to(self.columns.device, non_blocking=True)

    def products(self, slots: slice, rows: Rows) -> Tensor:
        """Return `X^T X Omega`, `[groups, p, r]`."""
        return rows.sketch_columns(self.columns[slots])

    def add_to(self, matrix: Tensor, scale: Tensor) -> Tensor:
        """Return `matrix + diag(scale) Omega`, for a matrix `[L, p, r]` and a scale `[L, p]`."""
        return matrix.scatter_add(
            1, self.columns.unsqueeze(1), scale.gather(1, self.columns).unsqueeze(1)
        )

    def core(self, matrix: Tensor) -> Tensor:
        """Return `Omega^T matrix`, `[L, r, r]`."""
        return matrix.gather(1, self.columns.unsqueeze(2).expand(-1, -1, matrix.shape[2]))


@dataclass
class GaussianSketch:
    """A Gaussian test matrix, `omega: [L, p, r]`.

    Its columns are orthonormal, so that `core` returns a well-conditioned matrix. With
    `orthonormal=False`, its entries are independent N(0, 1/p) instead.
    """

    omega: Tensor
    draws: Draws
    orthonormal: bool = True

    @classmethod
    def draw(
        cls,
        layers: Sequence[str],
        width: int,
        rank: int,
        seed: int,
        like: Tensor,
        orthonormal: bool = True,
    ) -> GaussianSketch:
        """Return the first draw of each slot."""
        omega = like.new_empty(len(layers), width, rank)
        sketch = cls(omega, Draws.first(layers, seed), orthonormal)
        sketch.redraw(advance=0)
        return sketch

    def redraw(self, slots: slice = ALL, advance: int = 1) -> None:
        """Replace Omega of some slots by a later draw."""
        width, rank = self.omega.shape[1:]
        generators = self.draws.generators(slots, advance)
        drawn = torch.stack(
            [torch.randn(width, rank, generator=g, dtype=torch.float64) for g in generators]
        )
        omega = torch.linalg.qr(drawn).Q if self.orthonormal else drawn / width**0.5
        self.omega[slots] = omega.to(self.omega, non_blocking=True)

    def products(self, slots: slice, rows: Rows) -> Tensor:
        """Return `X^T X Omega`, `[groups, p, r]`."""
        return rows.sketch(self.omega[slots])

    def add_to(self, matrix: Tensor, scale: Tensor) -> Tensor:
        """Return `matrix + diag(scale) Omega`, for a matrix `[L, p, r]` and a scale `[L, p]`."""
        return matrix + scale.unsqueeze(2) * self.omega.to(matrix.dtype)

    def core(self, matrix: Tensor) -> Tensor:
        """Return `Omega^T matrix`, `[L, r, r]`."""
        return self.omega.to(matrix.dtype).mT @ matrix


Sketch = ColumnSketch | GaussianSketch


@dataclass
class SketchedCovariance:
    """The sketch C = A Omega, averaged over steps, with its Omega.

    Here, Omega is fixed. The subclasses in `algorithms/nysact_variants.py` redraw it.
    """

    average: MovingAverage
    sketch: Sketch

    @classmethod
    def zeros(cls, sketch: Sketch, width: int, rank: int, like: Tensor) -> Self:
        """Return a statistic without updates; C will be `[L, width, rank]`."""
        return cls(MovingAverage.zeros(len(sketch.draws.number), width, rank, like=like), sketch)

    def add(self, slots: slice, rows: Rows) -> None:
        """Accumulate one forward of one layer."""
        self.average.add(slots, self.sketch.products(slots, rows), rows.count)

    def commit(self, decay: float) -> None:
        """Update the moving average with the accumulated sums."""
        self.average.commit(decay)

    def mean(self) -> tuple[Tensor, Sketch]:
        """Return the bias-corrected C `[L, p, r]` and its Omega."""
        return self.average.mean(), self.sketch

    def end_window(self, c: Tensor, outcome: Outcome) -> Outcome:
        """Prepare for the steps until the next refresh (a window); this class does nothing.

        Args:
            c: The mean C that the last refresh used.
            outcome: The outcome of the last refresh.

        Returns:
            The outcome of the last refresh and of this method together.
        """
        return outcome


def seed_of(seed: int, name: str, number: int) -> int:
    """Return the seed of the generator for draw `number` of the object `name`."""
    bits = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
    return int.from_bytes(bits[:8], "big") >> 1
