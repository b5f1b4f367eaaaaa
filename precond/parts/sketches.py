"""Sketched covariances: C = A Omega with the Omega that it belongs to, and the random draws of Omega."""

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
    """Where each slot's test matrix comes from: draw number n is seeded by hash(seed, slot name, n).

    Drawn on the CPU, so that it is the same on every device and rank. `number: [L]` int64 on the CPU.
    """

    number: Tensor
    _names: Sequence[str]
    _seed: int

    @classmethod
    def first(cls, names: Sequence[str], seed: int) -> Draws:
        """Every slot at draw 0."""
        return cls(torch.zeros(len(names), dtype=torch.int64), names, seed)

    def generators(self, slots: slice, advance: int) -> list[torch.Generator]:
        """Return a generator for each of some slots, `advance` draws further (0: at its current draw)."""
        self.number[slots] += advance
        draws = zip(self._names[slots], self.number[slots].tolist(), strict=True)
        return [
            torch.Generator().manual_seed(seed_of(self._seed, name, number))
            for name, number in draws
        ]


@dataclass
class ColumnSketch:
    """Omega picks r distinct columns of the identity, so X Omega is r columns of X. `columns: [L, r]`."""

    columns: Tensor
    width: int
    draws: Draws

    @classmethod
    def draw(
        cls, layers: Sequence[str], width: int, rank: int, seed: int, like: Tensor
    ) -> ColumnSketch:
        """Columns drawn without replacement, the first draw of each slot."""
        columns = torch.empty(len(layers), rank, dtype=torch.int64, device=like.device)
        sketch = cls(columns, width, Draws.first(layers, seed))
        sketch.redraw(advance=0)
        return sketch

    def redraw(self, slots: slice = ALL, advance: int = 1) -> None:
        """Replace the columns of some slots by their next draw."""
        rank = self.columns.shape[1]
        generators = self.draws.generators(slots, advance)
        drawn = [torch.randperm(self.width, generator=g)[:rank] for g in generators]
        self.columns[slots] = torch.stack(drawn).to(self.columns.device)

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
    """Omega is Gaussian: orthonormal, which keeps the core well conditioned, or plain N(0, 1/p). `omega: [L, p, r]`."""

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
        """The first draw of each slot."""
        sketch = cls(
            like.new_empty(len(layers), width, rank), Draws.first(layers, seed), orthonormal
        )
        sketch.redraw(advance=0)
        return sketch

    def redraw(self, slots: slice = ALL, advance: int = 1) -> None:
        """Replace Omega of some slots by its next draw."""
        width, rank = self.omega.shape[1:]
        generators = self.draws.generators(slots, advance)
        drawn = torch.stack(
            [torch.randn(width, rank, generator=g, dtype=torch.float64) for g in generators]
        )
        self.omega[slots] = (
            torch.linalg.qr(drawn).Q if self.orthonormal else drawn / width**0.5
        ).to(self.omega)

    def products(self, slots: slice, rows: Rows) -> Tensor:
        """`X^T X Omega`, `[groups, p, r]`."""
        return rows.sketch(self.omega[slots])

    def add_to(self, matrix: Tensor, scale: Tensor) -> Tensor:
        """`matrix + scale Omega` for a matrix `[L, p, r]` and a scale `[L]`."""
        return matrix + scale.view(-1, 1, 1) * self.omega.to(matrix.dtype)

    def core(self, matrix: Tensor) -> Tensor:
        """`Omega^T matrix`, `[L, r, r]`."""
        return self.omega.to(matrix.dtype).mT @ matrix


Sketch = ColumnSketch | GaussianSketch


@dataclass
class SketchedCovariance:
    """C = A Omega, averaged over steps, with the Omega that it belongs to.

    Omega is fixed. Subclasses that redraw it override the methods (`algorithms/nysact_variants.py`).
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
        """Update the moving average with what was accumulated."""
        self.average.commit(decay)

    def mean(self) -> tuple[Tensor, Sketch]:
        """Return C without bias, `[L, p, r]`, and its Omega."""
        return self.average.mean(), self.sketch

    def end_window(self, c: Tensor, outcome: Outcome) -> Outcome:
        """Return the outcome of a refresh that has just used the mean C; called once for each refresh."""
        return outcome


def seed_of(seed: int, name: str, number: int) -> int:
    """Return the seed of the generator for the n-th draw of a named object."""
    bits = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
    return int.from_bytes(bits[:8], "big") >> 1
