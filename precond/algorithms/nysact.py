"""NysAct: a Nystrom approximation of the activation covariance (Seung et al. 2024).

For each layer, with inputs X `[N, p]`, a test matrix Omega `[p, r]` and A = X^T X / N (line numbers
are those of Algorithm 1):

    every tau_cov steps:
        C <- beta C + (1 - beta) X^T (X Omega) / N                   (lines 2 to 9)
    every tau_inv steps, starting with step 0, with k updates so far:
        C^ = C / (1 - beta^k)                                        (line 11)
        P = U diag(1 / (lambda + rho)) U^T + (I - U U^T) / rho       (lines 12 to 20)
            where C^ (Omega^T C^)^+ C^^T = U diag(lambda) U^T is the Nystrom approximation of A
    every step:
        D = G P                          then momentum and weight decay as in SGD

NysAct-S (`sketch="subcolumn"`): Omega consists of r random columns of the identity. NysAct-G
(`sketch="gaussian"`): Omega is Gaussian, with orthonormalised columns. A layer with p <= r uses
FOOF, which has the exact covariance. P is never formed: `parts/nystrom.py` computes Z with
P = I / rho - Z Z^T from C^ and Omega.

Cost per step: 4 N p r / tau_cov (NysAct-S: half of this) + (7 p r^2 + 10 r^3) / tau_inv + 4 o p r
operations. Memory per layer: 2 p r + r (NysAct-S) or 3 p r (NysAct-G); the released code needs p^2.

`docs/algorithms.md` defines the symbols and describes the options that follow the released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from precond.algorithm import Algorithm, Card, Curvature, LayerShape, Signals
from precond.algorithms.foof import FOOF
from precond.algorithms.nysact_variants import FACTORS, STATISTICS
from precond.averaged import DampedAlgorithm
from precond.counts import counted
from precond.hyperparameters import choice, count
from precond.parts.factors import LowRank
from precond.parts.linalg import Outcome
from precond.parts.sketches import ColumnSketch, GaussianSketch, Sketch, SketchedCovariance


@dataclass
class SketchedState:
    """The state of a bank: the sketch C `[L, p, r]` with its Omega, and Z `[L, p, r]`."""

    statistic: SketchedCovariance
    factor: LowRank


@dataclass(frozen=True, kw_only=True)
class NysAct(DampedAlgorithm[SketchedState]):
    """Precondition with a damped Nystrom approximation of the input covariance.

    Attributes:
        rank: Number of columns of the sketch; at most the number of inputs of the widest layer.
        sketch: Random test matrix of the sketch: columns of the identity (`subcolumn`, which is
            NysAct-S), or a Gaussian matrix (`gaussian`, which is NysAct-G).
        resample: When to draw a new test matrix: never (`fixed`), after each update of the factors
            (`window`), or at each update of the statistics (`joint` and `official`). `joint`
            averages the test matrices in the same way as the sketches, which is consistent only if
            the covariance is the same at all updates; `official` uses the last test matrix, as in
            the released code.
        shift: For stability, multiples of the rows of the test matrix are added to the rows of the
            sketch. The multiples are as small as the rounding error in each row (`tropp`), or all
            equal to `damping` (`damped`). `official` follows the formulas of the released code.
        seed: Seed of the test matrices, combined with the layer's name.
    """

    NUMERICS: ClassVar[int] = 4
    CARD: ClassVar[Card | None] = Card(
        paper="Seung et al., IEEE BigData 2024",
        cost="4Npr/c (nysact-s: 2Npr/c) + (7pr^2+10r^3)/i + 4opr",
        memory="3pr (nysact-s: 2pr+r)",
        deviations="the test matrix is never redrawn; the shift that stabilises the Cholesky "
        "factorisation has the size of the rounding error of each row and is subtracted again; no "
        "p x p matrix is formed",
    )

    rank: int = count(10, symbol="r")
    sketch: str = choice("subcolumn", "gaussian")
    resample: str = choice("fixed", "window", "joint", "official")
    shift: str = choice("tropp", "damped", "official")
    seed: int = count(0, low=0)

    def model_problems(self, shapes: Mapping[str, LayerShape]) -> list[str]:
        """Return an error if the rank exceeds the number of inputs of the widest layer."""
        widest = max(shapes, key=lambda name: shapes[name].d_in)
        limit = shapes[widest].d_in
        if self.rank <= limit:
            return []
        return [
            f"rank = {self.rank}: the widest layer ({widest}) has "
            f"{counted(limit, 'input')} (bias included), use 1..{limit}"
        ]

    def for_shape(self, shape: LayerShape) -> Algorithm[Any]:
        """Return FOOF for layers with p <= r: an exact covariance costs no more than a sketch."""
        if shape.d_in > self.rank:
            return self
        shared = {field.name: getattr(self, field.name) for field in fields(DampedAlgorithm)}
        return FOOF(**shared)

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> SketchedState:
        """Draw Omega, and return C = 0 and P = I / damping."""
        width, rank = shape.d_in, min(self.rank, shape.d_in)
        omega: Sketch
        if self.sketch == "subcolumn":
            omega = ColumnSketch.draw(layers, width, rank, self.seed, like)
        else:
            orthonormal = "official" not in (self.resample, self.shift)
            omega = GaussianSketch.draw(layers, width, rank, self.seed, like, orthonormal)
        statistic = STATISTICS[self.resample].zeros(omega, width, rank, like)
        return SketchedState(
            statistic, LowRank.identity(len(layers), width, rank, self.damping, like)
        )

    def accumulate(self, state: SketchedState, slots: slice, signals: Signals) -> None:
        """Add `X^T X Omega` (lines 2 to 8)."""
        assert signals.inputs is not None
        state.statistic.add(slots, signals.inputs)

    def commit(self, state: SketchedState) -> None:
        """Update the moving average C (line 9)."""
        state.statistic.commit(self.ema_decay)

    def refresh(self, state: SketchedState) -> Outcome:
        """Compute Z from C^ (lines 11 to 20)."""
        c, omega = state.statistic.mean()
        z, outcome = FACTORS[self.shift](c, omega, self.damping)
        state.factor.store(outcome.ok, z)
        return state.statistic.end_window(c, outcome)

    def curvature(self, state: SketchedState) -> Curvature:
        """Return the low-rank approximation of A that Z represents."""
        return Curvature(low_rank=state.factor.root(), damping=self.damping, decay=self.ema_decay)
