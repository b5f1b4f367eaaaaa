"""The options `resample` and `shift` of NysAct.

`resample` selects the class of the statistic, and `shift` selects the function that computes the
factor. "official" follows the released code. `docs/algorithms.md` explains all values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from precond.parts import collectives, linalg
from precond.parts.linalg import Outcome
from precond.parts.nystrom import (
    Whitened,
    inverse_factor,
    low_rank_factor,
    nystrom_root,
    rounding,
    whiten,
)
from precond.parts.rows import Rows
from precond.parts.sketches import GaussianSketch, Sketch, SketchedCovariance


@dataclass
class OfficialCovariance(SketchedCovariance):
    """C, averaged over updates with different Omegas; the factor uses the last Omega."""

    # Slots whose Omega has been redrawn for the current update.
    _redrawn: set[int] = field(default_factory=set)

    def add(self, slots: slice, rows: Rows) -> None:
        """Accumulate one forward of one layer; the first forward of an update redraws Omega."""
        if slots.start not in self._redrawn:
            self._redrawn.update(range(slots.start, slots.stop))
            self.sketch.redraw(slots)
        self.average.add(slots, self._products(slots, rows), rows.count)

    def _products(self, slots: slice, rows: Rows) -> Tensor:
        return self.sketch.products(slots, rows)

    def commit(self, decay: float) -> None:
        """Update the moving average.

        First redraw the Omegas that only other ranks have redrawn, so that all ranks have the same.
        """
        slots = range(len(self.sketch.draws.number))
        redrawn = collectives.union(
            [slot in self._redrawn for slot in slots], self.average.value.device
        )
        for slot in slots:
            if redrawn[slot] and slot not in self._redrawn:
                self.sketch.redraw(slice(slot, slot + 1))
        self._redrawn.clear()
        super().commit(decay)


@dataclass
class JointCovariance(OfficialCovariance):
    """Moving averages of C and of Omega with the same weights, stacked as `[L, 2 p, r]`."""

    @classmethod
    def zeros(cls, sketch: Sketch, width: int, rank: int, like: Tensor) -> Self:
        """Return a statistic without updates."""
        return super().zeros(sketch, 2 * width, rank, like)

    def _products(self, slots: slice, rows: Rows) -> Tensor:
        value = self.average.value
        zeros = torch.zeros_like(value.chunk(2, dim=1)[1])
        omega = self.sketch.add_to(zeros, torch.ones_like(zeros[:, :, 0]))
        return torch.cat([self.sketch.products(slots, rows), rows.count * omega[slots]], 1)

    def mean(self) -> tuple[Tensor, Sketch]:
        """Return C R^{-1} and the test matrix Q, where Q R is the averaged Omega.

        If A is the same at all updates, then C = A Q R, and the first result is A Q.
        """
        mean = self.average.mean()
        c, omega = mean.double().chunk(2, dim=1)
        q, r = torch.linalg.qr(omega)
        c = torch.linalg.solve_triangular(r, c, upper=True, left=False)
        return c.to(mean.dtype), GaussianSketch(q, self.sketch.draws)


@dataclass
class WindowCovariance(SketchedCovariance):
    """C with an Omega that is redrawn after each refresh."""

    def end_window(self, c: Tensor, outcome: Outcome) -> Outcome:
        """Redraw Omega, and set C = Y Y^T Omega; Y Y^T is the Nystrom matrix of the old C."""
        root, _, carried = nystrom_root(whiten(c.double(), self.sketch, rounding(c)))
        if carried.ok.all():
            self.sketch.redraw()
        else:  # a slot for which Y cannot be computed keeps its Omega and its C
            for slot in torch.nonzero(carried.ok).flatten().tolist():
                self.sketch.redraw(slice(slot, slot + 1))
        average = self.average
        weight = linalg.per_layer(average.weight.to(average.value), average.value)
        new = weight * (root @ self.sketch.core(root).mT).to(average.value)
        average.value.copy_(linalg.select(carried.ok, new, average.value))
        return Outcome(outcome.ok, outcome.retried | carried.retried)


STATISTICS: Mapping[str, type[SketchedCovariance]] = {
    "fixed": SketchedCovariance,
    "window": WindowCovariance,
    "joint": JointCovariance,
    "official": OfficialCovariance,
}


def damped_factor(c: Tensor, omega: Sketch, damping: float) -> tuple[Tensor, Outcome]:
    """Return Z and the outcome, as `low_rank_factor` does, but with nu = rho."""
    c = c.double()
    return inverse_factor(whiten(c, omega, torch.full_like(c[:, :, 0], damping)), damping)


def official_factor(c: Tensor, omega: Sketch, damping: float) -> tuple[Tensor, Outcome]:
    """Return Z and the outcome, by the formulas of the released code.

    It solves B L = C_rho, where C_rho = C + rho Omega, W = Omega^T C_rho, L L^T = W + s I and
    s = |smallest eigenvalue of W| + rho. In contrast, `low_rank_factor` symmetrises W (here, `eigh`
    reads only its lower triangle), adds the same shift to C and to W, and transposes L.
    """
    c = c.double()
    c_rho = omega.add_to(c, torch.full_like(c[:, :, 0], damping))
    eigenvalues, q, ok = linalg.eigh(omega.core(c_rho))
    s = eigenvalues.amin(-1).abs() + damping
    triangle, info = torch.linalg.cholesky_ex(
        (q * (eigenvalues + s.unsqueeze(-1)).unsqueeze(-2)) @ q.mT
    )
    b = torch.linalg.solve_triangular(triangle, c_rho, upper=False, left=False)
    b = linalg.select(ok & (info == 0), b, torch.full_like(b, torch.nan))
    shift = s.unsqueeze(-1).expand_as(c[:, :, 0])
    return inverse_factor(Whitened(b, shift, retried=torch.zeros_like(ok)), damping)


Factor = Callable[[Tensor, Sketch, float], tuple[Tensor, Outcome]]
FACTORS: Mapping[str, Factor] = {
    "tropp": low_rank_factor,
    "damped": damped_factor,
    "official": official_factor,
}
