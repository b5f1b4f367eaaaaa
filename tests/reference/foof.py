"""FOOF (Benzing 2022) for one layer: the dense inverse of the averaged, damped covariance."""

from __future__ import annotations

import torch
from torch import Tensor


class FOOF:
    """P = (A / (1 - beta^k) + rho I)^{-1}."""

    def __init__(self, p: int, *, beta: float, rho: float):
        self.beta, self.rho = beta, rho
        self.A = torch.zeros(p, p, dtype=torch.float64)
        self.k = 0

    def update(self, X: Tensor) -> None:
        """A <- beta A + (1 - beta) X^T X / N."""
        A_t = X.T @ X / len(X)
        self.A = self.beta * self.A + (1 - self.beta) * A_t
        self.k += 1

    def invert(self) -> None:
        """Invert the bias-corrected covariance."""
        A = self.A / (1 - self.beta**self.k)
        self.P = torch.linalg.inv(A + self.rho * torch.eye(len(A), dtype=torch.float64))
