"""What the NysAct authors' released code computes, bugs included, for one layer: dense matrices and full SVDs.

The options called "official" (and those of FOOF) must reproduce it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def update_inverse(C: Tensor, Omega_last: Tensor, rho: float) -> Tensor:
    """The dense inverse of NysAct's `update_inverse`, from the bias-corrected sketch `C [p, r]`."""
    p, r = C.shape
    C_rho = C + rho * Omega_last
    W = Omega_last.T @ C_rho
    mu, Q = torch.linalg.eigh(W)  # W need not be symmetric: the lower triangle is read
    s = torch.abs(torch.min(mu)) + rho
    L = torch.linalg.cholesky(Q @ torch.diag(mu + s) @ Q.T)
    X = torch.linalg.solve_triangular(
        L, C_rho, upper=False, left=False
    )  # X L = C_rho: the transpose is missing
    U, S, _ = torch.linalg.svd(X, full_matrices=True)
    U_r = U[:, :r]
    lam = torch.clamp(S**2 - s, min=0)
    eye = torch.eye(p, dtype=C.dtype)
    return U_r @ torch.diag(1 / (lam + rho)) @ U_r.T + (eye - U_r @ U_r.T) / rho


class NysAct:
    """C is averaged over the Omegas of all updates, and the core takes the last.

    Args:
        Omegas: The test matrix of each update, in turn.
        beta: Weight of the old C.
        rho: Damping.
    """

    def __init__(self, Omegas: Iterable[Tensor], *, beta: float, rho: float):
        self.Omegas, self.beta, self.rho = iter(Omegas), beta, rho
        self.k = 0

    def update(self, X: Tensor) -> None:
        """C <- beta C + (1 - beta) X^T X Omega / N."""
        self.Omega = next(self.Omegas)
        C_t = X.T @ (X @ self.Omega) / len(X)
        self.C = self.beta * (self.C if self.k else torch.zeros_like(C_t)) + (1 - self.beta) * C_t
        self.k += 1

    def invert(self) -> None:
        """A_inv from the corrected average."""
        self.P = update_inverse(self.C / (1 - self.beta**self.k), self.Omega, self.rho)


class FOOF:
    """A starts at I and is never corrected for it; P = I at first, and step 0 does not invert."""

    def __init__(self, p: int, *, beta: float, rho: float):
        self.beta, self.rho = beta, rho
        self.A = torch.eye(p, dtype=torch.float64)
        self.P = torch.eye(p, dtype=torch.float64)
        self.step_0 = True

    def update(self, X: Tensor) -> None:
        """A <- beta A + (1 - beta) X^T X / N."""
        self.A = self.beta * self.A + (1 - self.beta) * X.T @ X / len(X)

    def invert(self) -> None:
        """At tau_inv, 2 tau_inv, ... but not at 0."""
        if not self.step_0:
            self.P = torch.linalg.inv(
                self.A + self.rho * torch.eye(len(self.A), dtype=torch.float64)
            )
        self.step_0 = False
