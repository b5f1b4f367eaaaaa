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

Deviations of the authors' code from this, each an option here. `resample`: "official" draws Omega anew at each update
while C averages over them, and uses the last in the core; "joint" averages Omega with C, "window" redraws when P is
made and carries the average over; both are consistent. `shift`: "official" adds s = |min eig W| + rho to W only, and
solves X L = C_rho without the transpose; "damped" is line 12 made consistent, nu = rho. (With either "official" Omega
is plain Gaussian.) The code also forms the full SVD and P: the same numbers at p / r times the cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from precond import distributed
from precond.algorithm import Curvature, DampedAlgorithm, LayerShape, Signals
from precond.algorithms.foof import ExactState, exact_state, refresh_exact
from precond.card import Card
from precond.hyperparameters import choice, count
from precond.parts import linalg
from precond.parts.factors import LowRank
from precond.parts.sketches import ColumnSketch, GaussianSketch, Sketch, SketchedCovariance

SHIFT_RETRIES = 8  # nu grows tenfold with each


@dataclass
class SketchedState:
    """A bank's sketch C `[L, p, r]` with its Omega, and the low-rank factor Z `[L, p, r]`.

    With `resample="joint"` the average is `[L, 2 p, r]`: C above the averaged Omega, so that the two stay together.
    """

    statistic: SketchedCovariance
    factor: LowRank
    # The slots whose Omega was redrawn for the update under way.
    _redrawn: set[int] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class NysAct(DampedAlgorithm):
    """Precondition with a damped Nystrom approximation of the input covariance (see the module).

    Attributes:
        rank: Columns of the sketch; at most the largest layer's inputs.
        sketch: `subcolumn` (NysAct-S) or `gaussian` (NysAct-G).
        resample: When Omega is drawn again: `fixed` (never), `window`, `joint` or `official`.
        shift: What stabilises the factorisation: `tropp` (rounding-sized), `damped` or `official`.
        seed: Seeds the test matrices, with the layer's name.
    """

    NUMERICS: ClassVar[int] = 2
    CARD: ClassVar[Card | None] = Card(
        paper="Seung et al., IEEE BigData 2024",
        cost="4Npr/c (S: 2Npr/c) + (7pr^2+10r^3)/i + 4opr",
        memory="3pr (S: 2pr+r)",
        deviations="one fixed test matrix, not redrawn; a rounding-sized shift, taken off again; no p x p matrix",
    )

    rank: int = count(10)  # r
    sketch: str = choice("subcolumn", "gaussian")
    resample: str = choice("fixed", "window", "joint", "official")
    shift: str = choice("tropp", "damped", "official")
    seed: int = count(0, low=0)

    def model_problems(self, shapes: Mapping[str, LayerShape]) -> list[str]:
        """The rank must not exceed the widest layer's inputs."""
        widest = max(shapes, key=lambda name: shapes[name].d_in)
        limit = shapes[widest].d_in
        if self.rank <= limit:
            return []
        return [f"rank = {self.rank}: the widest layer ({widest}) has {limit} inputs with bias, use 1..{limit}"]

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> ExactState | SketchedState:
        """Exact for layers no wider than the rank, else sketched; P = I / damping."""
        if shape.d_in <= self.rank:
            return exact_state(shape, len(layers), self.damping, like)
        return self._sketched_state(shape, layers, like)

    def accumulate(self, state: ExactState | SketchedState, slots: slice, signals: Signals) -> None:
        """Add `X^T X Omega`."""
        rows = signals.inputs
        assert rows is not None
        if isinstance(state, ExactState) or self.resample in ("fixed", "window"):
            state.statistic.add(slots, rows)
            return
        sketch = state.statistic.sketch
        if slots.start not in state._redrawn:
            state._redrawn.update(range(slots.start, slots.stop))
            sketch.redraw(slots)
        products = sketch.products(slots, rows)
        if self.resample == "joint":
            products = torch.cat([products, rows.count * _dense(sketch, like=products)[slots]], 1)
        state.statistic.average.add(slots, products, rows.count)

    def commit(self, state: ExactState | SketchedState) -> None:
        """Update the moving average (line 9)."""
        if isinstance(state, SketchedState) and self.resample in ("joint", "official"):
            _agree(state)
        state.statistic.average.commit(self.ema_decay)

    def refresh(self, state: ExactState | SketchedState) -> Tensor:
        """Make Z (lines 11 to 20)."""
        if isinstance(state, ExactState):
            return refresh_exact(state, self.damping)
        c, omega = state.statistic.average.mean(), state.statistic.sketch
        if self.resample == "joint":
            c, omega = _orthonormalized(c, omega)
        z, ok = low_rank_factor(c, omega, self.damping, self.shift)
        state.factor.store(z, ok)
        if self.resample == "window":
            _carry_over(state, c)
        return ok

    def curvature(self, state: ExactState | SketchedState) -> Curvature:
        """A, or what Z has of it."""
        if isinstance(state, ExactState):
            return Curvature(inputs=state.statistic.average.mean())
        return Curvature(low_rank=state.factor.root())

    def precondition(self, state: ExactState | SketchedState, gradients: Tensor, lr: float) -> Tensor:
        """`G P`."""
        return state.factor.solve(gradients)

    def _sketched_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> SketchedState:
        width, rank = shape.d_in, min(self.rank, shape.d_in)
        if self.sketch == "subcolumn":
            omega = ColumnSketch.draw(layers, width, rank, self.seed, like)
        else:
            orthonormal = "official" not in (self.resample, self.shift)
            omega = GaussianSketch.draw(layers, width, rank, self.seed, like, orthonormal)
        statistic = SketchedCovariance.zeros(omega, 2 * width if self.resample == "joint" else width, rank, like)
        return SketchedState(statistic, LowRank.identity(len(layers), width, rank, self.damping, like))


def _agree(state: SketchedState) -> None:
    """Redraw what another rank has redrawn for this update, so that all go on with the same Omega."""
    mine, sketch = state._redrawn, state.statistic.sketch
    redrawn = distributed.union([slot in mine for slot in range(len(sketch.draws.number))], state.factor.z.device)
    for slot in (slot for slot, anywhere in enumerate(redrawn) if anywhere and slot not in mine):
        sketch.redraw(slice(slot, slot + 1))
    mine.clear()


def low_rank_factor(
    sketch: Tensor, omega: Sketch, damping: float, shift: str = "tropp", least_shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Z with P = I / damping - Z Z^T (lines 12 to 20), in float64, which costs nothing at r columns.

    Args:
        sketch: C^ = A Omega, `[L, p, r]`.
        omega: The test matrices that the sketch was made with.
        damping: rho.
        shift: `tropp`, `damped` or `official`.
        least_shift: `[L]`, for `tropp`, where A is not positive semi-definite.

    Returns:
        Z `[L, p, r]` in float64, and `ok [L]`; where not ok, the entry is meaningless.
    """
    c = sketch.double()
    if shift == "official":
        x, nu = _whiten_official(c, omega, damping)
    elif shift == "damped":
        x, nu = _whiten(c, omega, torch.full_like(c[:, 0, 0], damping))
    else:
        nu = _rounding(sketch)
        x, nu = _whiten(c, omega, nu if least_shift is None else torch.maximum(nu, least_shift))
    root, eigenvalues, ok = _root(x, nu)
    return root * (damping * (eigenvalues + damping)).rsqrt().unsqueeze(-2), ok


def _root(x: Tensor, nu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Y `[L, p, r]` with Y Y^T = U diag(lambda) U^T, the Nystrom matrix without its shift; lambda; where it succeeded.

    From the r x r Gram matrix of X (lines 18 and 19): Y = X V sqrt(w), which never divides by a small sigma.
    """
    sigma_squared, v, ok = linalg.eigh(x.mT @ x)
    eigenvalues = (sigma_squared - nu.unsqueeze(-1)).clamp(min=0)
    w = torch.where(sigma_squared > 0, eigenvalues / sigma_squared, 0)
    return (x @ v) * w.sqrt().unsqueeze(-2), eigenvalues, ok


def _rounding(sketch: Tensor) -> Tensor:
    """Shift `[L]` of the size of the rounding error in C, in the precision in which C was accumulated."""
    norm = torch.linalg.matrix_norm(sketch.double())
    return 8 * torch.finfo(sketch.dtype).eps * norm + torch.finfo(torch.float32).tiny


def _whiten(c: Tensor, omega: Sketch, nu: Tensor) -> tuple[Tensor, Tensor]:
    """X with X X^T = Nystrom matrix of A + nu I (lines 12 to 17), and the nu that it took.

    Where the core is not positive definite, the shift grows tenfold, at most 8 times; then its eigenvalues are floored.
    The shift is always in C_nu, in W and in what is taken off, so the result stays a Nystrom approximation.
    """
    x, ok = _whiten_by_cholesky(c, omega, nu)
    linalg.note_failures(ok)
    for _ in range(SHIFT_RETRIES):
        if ok.all():
            return x, nu
        nu = torch.where(ok, nu, 10 * nu)
        x, ok = _whiten_by_cholesky(c, omega, nu)
    return linalg.select(ok, x, _whiten_by_eigenvalues(c, omega, nu)), nu


def _whiten_by_cholesky(c: Tensor, omega: Sketch, nu: Tensor) -> tuple[Tensor, Tensor]:
    """X = C_nu L^{-T} with L L^T = W, and where the factorisation succeeded `[L]`."""
    c_nu = omega.add_to(c, nu)
    triangle, info = torch.linalg.cholesky_ex(linalg.symmetrize(omega.core(c_nu)))
    return torch.linalg.solve_triangular(triangle.mT, c_nu, upper=True, left=False), info == 0


def _whiten_by_eigenvalues(c: Tensor, omega: Sketch, nu: Tensor) -> Tensor:
    """X = C_nu W^{-1/2} with the eigenvalues of W floored at nu; nan where that fails."""
    c_nu = omega.add_to(c, nu)
    eigenvalues, q, ok = linalg.eigh(linalg.symmetrize(omega.core(c_nu)))
    x = c_nu @ (q * eigenvalues.clamp(min=nu.unsqueeze(-1)).rsqrt().unsqueeze(-2))
    return linalg.select(ok, x, torch.full_like(x, torch.nan))


def _whiten_official(c: Tensor, omega: Sketch, damping: float) -> tuple[Tensor, Tensor]:
    """The released formulas, letter for letter: X L = C_rho, where L L^T = W + s I and s = |min eig W| + rho.

    W is not symmetrised (eigh reads its lower triangle), s is missing from C_rho, and L should be transposed.
    """
    c_rho = omega.add_to(c, torch.full_like(c[:, 0, 0], damping))
    eigenvalues, q, ok = linalg.eigh(omega.core(c_rho))
    s = eigenvalues.amin(-1).abs() + damping
    triangle, info = torch.linalg.cholesky_ex((q * (eigenvalues + s.unsqueeze(-1)).unsqueeze(-2)) @ q.mT)
    x = torch.linalg.solve_triangular(triangle, c_rho, upper=False, left=False)
    return linalg.select(ok & (info == 0), x, torch.full_like(x, torch.nan)), s


def _dense(omega: Sketch, like: Tensor) -> Tensor:
    """Omega itself, `[L, p, r]`."""
    if isinstance(omega, GaussianSketch):
        return omega.omega
    columns = omega.columns.unsqueeze(1)
    return like.new_zeros(columns.shape[0], omega.width, columns.shape[2]).scatter_(1, columns, 1)


def _orthonormalized(average: Tensor, omega: Sketch) -> tuple[Tensor, GaussianSketch]:
    """C R^{-1} and Q for an averaged pair `[L, 2 p, r]` of C over Omega = Q R: A Omega R^{-1} = A Q."""
    c, mean_omega = average.double().chunk(2, dim=1)
    q, r = torch.linalg.qr(mean_omega)
    c = torch.linalg.solve_triangular(r, c, upper=True, left=False)
    return c.to(average.dtype), GaussianSketch(q, omega.draws)


def _carry_over(state: SketchedState, sketch: Tensor) -> None:
    """Redraw Omega and make C = A_nys Omega of the Nystrom matrix so far, without its shift: exact for that matrix."""
    average, omega = state.statistic.average, state.statistic.sketch
    root, _, ok = _root(*_whiten(sketch.double(), omega, _rounding(sketch)))
    if ok.all():
        omega.redraw()
    else:  # a slot without a root keeps its Omega and its C
        for slot in torch.nonzero(ok).flatten().tolist():
            omega.redraw(slice(slot, slot + 1))
    carried = (root @ omega.core(root).mT).to(average.value) * average.weight.to(average.value).view(-1, 1, 1)
    average.value.copy_(linalg.select(ok, carried, average.value))
