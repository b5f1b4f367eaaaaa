"""Algorithm 1 of NysAct (Seung et al. 2024) for one layer, with a full SVD and an explicit P."""

from __future__ import annotations

import torch
from torch import Tensor


class NysAct:
    """P = U diag(1 / (lambda + rho)) U^T + (I - U U^T) / rho.

    U and lambda come from the sketch C = A Omega.
    """

    def __init__(self, Omega: Tensor, *, beta: float, rho: float):
        self.Omega, self.beta, self.rho = Omega, beta, rho
        self.C = torch.zeros_like(Omega)
        self.k = 0

    def update(self, X: Tensor) -> None:
        """Lines 2 to 9: C <- beta C + (1 - beta) X^T X Omega / N."""
        C_t = X.T @ (X @ self.Omega) / len(X)
        self.C = self.beta * self.C + (1 - self.beta) * C_t
        self.k += 1

    def invert(self) -> None:
        """Lines 11 to 20."""
        C = self.C / (1 - self.beta**self.k)
        nu = 8 * torch.finfo(C.dtype).eps * torch.linalg.norm(C)
        C_nu = C + nu * self.Omega
        W = self.Omega.T @ C_nu
        L = torch.linalg.cholesky((W + W.T) / 2)
        X = C_nu @ torch.linalg.inv(L).T
        U, S, _ = torch.linalg.svd(X, full_matrices=False)
        lam = (S**2 - nu).clamp(min=0)
        eye = torch.eye(len(C), dtype=C.dtype)
        self.P = U @ torch.diag(1 / (lam + self.rho)) @ U.T + (eye - U @ U.T) / self.rho
