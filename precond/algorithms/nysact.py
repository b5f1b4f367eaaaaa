"""NysAct: preconditioning with a Nystrom approximation of the activation covariance (IEEE BigData 2024).

For each layer, with inputs X `[N, p]`, a test matrix Omega `[p, r]` and A = X^T X / N:

    C <- beta C + (1 - beta) X^T (X Omega) / N          every tau_cov steps                      (Algorithm 1, l. 2-9)
    every tau_inv steps, the first at step 0:
        C^ = C / (1 - beta^k),  k updates so far                                                 (l. 11)
        C_nu = C^ + nu Omega,   W = Omega^T C_nu = L L^T                                         (l. 12-16)
        X = C_nu L^{-T},        so that X X^T = C_nu W^{-1} C_nu^T, the Nystrom matrix of A + nu I  (l. 17)
        X = U Sigma V^T,        lambda = max(Sigma^2 - nu, 0)                                    (l. 18-19)
        P = U diag(1 / (lambda + rho)) U^T + (I - U U^T) / rho                                   (l. 20)
    D = G P                                             every step; then momentum and weight decay as SGD

NysAct-S (`sketch="subcolumn"`): Omega is r columns of the identity. NysAct-G (`"gaussian"`): Gaussian, orthonormal.
A layer with p <= r keeps its exact covariance, as FOOF does.

P is never formed. With w = lambda / sigma^2, P = I/rho - Z Z^T for Z = X V diag(sqrt(w / (rho (lambda + rho)))): no
p x p matrix, and no division by a small singular value. The shift nu (Tropp et al. 2017) is of the size of the rounding
error in C and is taken off again, so it changes nothing but the stability of the Cholesky factorisation.

Cost per step: 4 N p r / tau_cov (half of it for S) + (7 p r^2 + 10 r^3) / tau_inv + 4 o p r operations; memory
2 p r + r (S) or 3 p r (G) for each layer, where the paper's code needs p^2.

Deviations of the authors' code from this: it draws Omega anew at each update while C averages over them; adds a shift
of at least rho to W only; solves X L = C_rho (the transpose of L is missing); forms the full SVD and P.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from precond import linalg
from precond.algorithm import DampedAlgorithm, LayerShape, Signals
from precond.algorithms.foof import ExactState, exact_state, refresh_exact
from precond.factors import LowRank
from precond.hyperparameters import choice, count
from precond.statistics import ColumnSketch, GaussianSketch, SketchedCovariance

SHIFT_RETRIES = 8  # nu grows tenfold with each
SKETCHES = {"subcolumn": ColumnSketch, "gaussian": GaussianSketch}


@dataclass
class SketchedState:
    """A bank's sketch C `[L, p, r]` with its Omega, and the low-rank factor Z `[L, p, r]`."""

    statistic: SketchedCovariance
    factor: LowRank


@dataclass(frozen=True, kw_only=True)
class NysAct(DampedAlgorithm):
    """Precondition with a damped Nystrom approximation of the input covariance (see the module).

    Attributes:
        rank: Columns of the sketch; at most the largest layer's inputs.
        sketch: `subcolumn` (NysAct-S) or `gaussian` (NysAct-G).
        seed: Seeds the test matrices, with the layer's name.
    """

    NUMERICS: ClassVar[int] = 1

    rank: int = count(10)  # r
    sketch: str = choice("subcolumn", "gaussian")
    seed: int = count(0, low=0)

    def model_problems(self, shapes: Mapping[str, LayerShape]) -> list[str]:
        """The rank must not exceed the widest layer's inputs."""
        widest = max(shapes, key=lambda name: shapes[name].d_in)
        limit = shapes[widest].d_in
        if self.rank <= limit:
            return []
        return [f"rank = {self.rank}: the widest layer ({widest}) has {limit} inputs with bias, use 1..{limit}"]

    def init(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> ExactState | SketchedState:
        """Exact for layers no wider than the rank, else sketched; P = I / damping."""
        if shape.d_in <= self.rank:
            return exact_state(shape, len(layers), self.damping, like)
        return self._init_sketched(shape, layers, like)

    def accumulate(self, state: ExactState | SketchedState, slots: slice, signals: Signals) -> None:
        """Add `X^T X Omega`."""
        state.statistic.add(slots, signals.inputs)

    def commit(self, state: ExactState | SketchedState) -> None:
        """Update the moving average (line 9)."""
        state.statistic.average.commit(self.ema_decay)

    def refresh(self, state: ExactState | SketchedState) -> None:
        """Make Z (lines 11 to 20)."""
        if isinstance(state, ExactState):
            refresh_exact(state, self.damping)
        else:
            sketch, omega = state.statistic.average.mean(), state.statistic.sketch
            state.factor.store(*low_rank_factor(sketch, omega, self.damping))

    def precondition(self, state: ExactState | SketchedState, gradients: Tensor) -> Tensor:
        """`G P`."""
        return state.factor.solve(gradients)

    def _init_sketched(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> SketchedState:
        rank = min(self.rank, shape.d_in)
        omega = SKETCHES[self.sketch].draw(layers, shape.d_in, rank, self.seed, like)
        statistic = SketchedCovariance.zeros(omega, shape.d_in, rank, like)
        return SketchedState(statistic, LowRank.identity(len(layers), shape.d_in, rank, self.damping, like))


def low_rank_factor(sketch: Tensor, omega: ColumnSketch | GaussianSketch, damping: float) -> tuple[Tensor, Tensor]:
    """Z with P = I / damping - Z Z^T (lines 12 to 20), in float64, which costs nothing at r columns.

    Where the core is not positive definite, the shift grows tenfold, at most 8 times; then its eigenvalues are floored.
    The shift is always in C_nu, in W and in what is taken off, so the result stays a Nystrom approximation.

    Args:
        sketch: C^ = A Omega, `[L, p, r]`.
        omega: The test matrices that the sketch was made with.
        damping: rho.

    Returns:
        Z `[L, p, r]` in float64, and `ok [L]`; where not ok, the entry is meaningless.
    """
    c = sketch.double()
    # The rounding error of C is that of the precision in which it was accumulated.
    nu = 8 * torch.finfo(sketch.dtype).eps * torch.linalg.matrix_norm(c) + torch.finfo(torch.float32).tiny
    x, ok = _whiten(c, omega, nu)
    for _ in range(SHIFT_RETRIES):
        if ok.all():
            break
        nu = torch.where(ok, nu, 10 * nu)
        x, ok = _whiten(c, omega, nu)
    else:
        x = linalg.select(ok, x, _whiten_by_eigenvalues(c, omega, nu))
    return _factor(x, nu, damping)


def _whiten(c: Tensor, omega: ColumnSketch | GaussianSketch, nu: Tensor) -> tuple[Tensor, Tensor]:
    """X = C_nu L^{-T} with L L^T = W (lines 12 to 17), and where the factorisation succeeded `[L]`."""
    c_nu = omega.add_to(c, nu)
    triangle, info = torch.linalg.cholesky_ex(linalg.symmetrize(omega.core(c_nu)))
    return torch.linalg.solve_triangular(triangle.mT, c_nu, upper=True, left=False), info == 0


def _whiten_by_eigenvalues(c: Tensor, omega: ColumnSketch | GaussianSketch, nu: Tensor) -> Tensor:
    """X = C_nu W^{-1/2} with the eigenvalues of W floored at nu; nan where that fails."""
    c_nu = omega.add_to(c, nu)
    eigenvalues, q, ok = linalg.eigh(linalg.symmetrize(omega.core(c_nu)))
    x = c_nu @ (q * eigenvalues.clamp(min=nu.unsqueeze(-1)).rsqrt().unsqueeze(-2))
    return linalg.select(ok, x, torch.full_like(x, torch.nan))


def _factor(x: Tensor, nu: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Z from X X^T = Nystrom matrix of A + nu I, by the r x r Gram matrix of X (lines 18 to 20), and where finite.

    Exact in float64: with eigenvalue lambda = sigma^2 - nu the factor is sqrt(w / (rho (lambda + rho))) in [0, 1/rho).
    """
    sigma_squared, v, ok = linalg.eigh(x.mT @ x)
    eigenvalues = (sigma_squared - nu.unsqueeze(-1)).clamp(min=0)
    w = torch.where(sigma_squared > 0, eigenvalues / sigma_squared, 0)
    return (x @ v) * (w / (damping * (eigenvalues + damping))).sqrt().unsqueeze(-2), ok
