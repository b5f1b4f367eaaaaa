"""Low-rank inverses from a sketch C = A Omega of positive semi-definite matrices A `[L, p, p]`.

A itself is not needed:

    C_nu = C + diag(nu) Omega,  W = Omega^T C_nu = L L^T
    B = C_nu L^{-T},            so that B B^T is the Nystrom matrix of A + diag(nu)
    B = U Sigma V^T,            lambda_j = max(Sigma_j^2 - u_j^T diag(nu) u_j, 0)
    P = U diag(1 / (lambda + rho)) U^T + (I - U U^T) / rho = I / rho - Z Z^T

With w = lambda / Sigma^2, Z = B V diag(sqrt(w / (rho (lambda + rho)))). This formula needs no p x p
matrix and does not divide by small singular values. The computation is in float64, which is cheap
for r columns. The only purpose of the shift nu is a stable Cholesky factorisation. Tropp et al. 2017
add the same number, of the size of the rounding error in C, to all diagonal entries. If one input
is 1000 times larger than the others, its error in float32 can be as large as their variances.
Here, each entry of nu therefore has the size of the error in its row of C.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from precond.parts import linalg
from precond.parts.linalg import Outcome
from precond.parts.sketches import Sketch

SHIFT_RETRIES = 8  # each multiplies nu by ten


class Whitened(NamedTuple):
    """The matrix B of the module docstring.

    Attributes:
        b: B, `[L, p, r]`.
        nu: The shift that B contains, `[L, p]`.
        retried: The first factorisation failed, `[L]`.
    """

    b: Tensor
    nu: Tensor
    retried: Tensor


def low_rank_factor(
    c: Tensor, omega: Sketch, damping: float, least_shift: Tensor | None = None
) -> tuple[Tensor, Outcome]:
    """Return Z `[L, p, r]` in float64 with P = I / damping - Z Z^T, and the outcome.

    Where the outcome is not ok, Z is meaningless.

    Args:
        c: The sketch C = A Omega, `[L, p, r]`.
        omega: The test matrices of the sketch.
        damping: rho.
        least_shift: Smallest allowed nu `[L]`, for an A that is not positive semi-definite.
    """
    nu = rounding(c)
    nu = nu if least_shift is None else torch.maximum(nu, least_shift.unsqueeze(-1))
    return inverse_factor(whiten(c.double(), omega, nu), damping)


def inverse_factor(whitened: Whitened, damping: float) -> tuple[Tensor, Outcome]:
    """Return Z and the outcome, as `low_rank_factor` does, from B."""
    root, eigenvalues, outcome = nystrom_root(whitened)
    return root * (damping * (eigenvalues + damping)).rsqrt().unsqueeze(-2), outcome


def nystrom_root(whitened: Whitened) -> tuple[Tensor, Tensor, Outcome]:
    """Return Y `[L, p, r]`, lambda `[L, r]` and the outcome.

    Y Y^T = U diag(lambda) U^T is the Nystrom matrix without its shift. V and Sigma come from the
    r x r Gram matrix of B, and Y = B V sqrt(w) does not divide by small singular values.
    """
    b, nu, retried = whitened
    sigma_squared, v, ok = linalg.eigh(b.mT @ b)
    columns = b @ v
    squares = columns.square()
    shift = (nu.unsqueeze(2) * squares).sum(1) / squares.sum(1).clamp(min=torch.finfo(b.dtype).tiny)
    eigenvalues = (sigma_squared - shift).clamp(min=0)
    w = torch.where(sigma_squared > 0, eigenvalues / sigma_squared, 0)
    return columns * w.sqrt().unsqueeze(-2), eigenvalues, Outcome(ok, retried)


def rounding(c: Tensor) -> Tensor:
    """Return a shift `[L, p]` of the size of the rounding error in the rows of C.

    The rows of inputs that are always 0 are exact, but W combines them with the errors of the other
    rows. Eliminating these errors, of relative size eps, from W leaves errors of relative size
    eps^2, which the lower bound covers. Without it, W is not positive definite if fewer than r
    inputs are not 0.
    """
    eps = torch.finfo(c.dtype).eps
    norms = torch.linalg.vector_norm(c.double(), dim=-1)
    least = (8 * eps) ** 2 * norms.amax(-1, keepdim=True) + torch.finfo(torch.float32).tiny
    return torch.maximum(8 * eps * norms, least)


def whiten(c: Tensor, omega: Sketch, nu: Tensor) -> Whitened:
    """Return B, so that B B^T is the Nystrom approximation of A + diag(nu), for C in float64.

    Where W is not positive definite, nu is multiplied by 10, at most 8 times. If W is still not
    positive definite, its eigenvalues are clamped to at least the largest nu. The result contains
    the last nu, which is the shift of both C_nu and W.
    """
    b, ok = _whiten_by_cholesky(c, omega, nu)
    retried = ~ok
    for _ in range(SHIFT_RETRIES):
        if ok.all():
            return Whitened(b, nu, retried)
        nu = linalg.select(ok, nu, 10 * nu)
        b, ok = _whiten_by_cholesky(c, omega, nu)
    return Whitened(linalg.select(ok, b, _whiten_by_eigenvalues(c, omega, nu)), nu, retried)


def _whiten_by_cholesky(c: Tensor, omega: Sketch, nu: Tensor) -> tuple[Tensor, Tensor]:
    """Return B = C_nu L^{-T} with L L^T = W, and a mask `[L]` of successful factorisations."""
    c_nu = omega.add_to(c, nu)
    triangle, info = torch.linalg.cholesky_ex(linalg.symmetrize(omega.core(c_nu)))
    return torch.linalg.solve_triangular(triangle.mT, c_nu, upper=True, left=False), info == 0


def _whiten_by_eigenvalues(c: Tensor, omega: Sketch, nu: Tensor) -> Tensor:
    """Return B = C_nu W^{-1/2}, with eigenvalues of W at least the largest nu; nan on failure."""
    c_nu = omega.add_to(c, nu)
    eigenvalues, q, ok = linalg.eigh(linalg.symmetrize(omega.core(c_nu)))
    b = c_nu @ (q * eigenvalues.clamp(min=nu.amax(-1, keepdim=True)).rsqrt().unsqueeze(-2))
    return linalg.select(ok, b, torch.full_like(b, torch.nan))
