"""Eva (Zhang et al. 2023) for one layer: the dense inverse of a rank-one curvature."""

from __future__ import annotations

import torch
from torch import Tensor


class Eva:
    """vec(D) = (v v^T + rho I)^{-1} vec(G), with v = m_g (x) m_a."""

    def __init__(self, p: int, o: int, *, beta: float, rho: float, g_scale: str, init: str):
        self.beta, self.rho, self.g_scale, self.init = beta, rho, g_scale, init
        self.m_a, self.m_g = torch.zeros(p).double(), torch.zeros(o).double()
        self.k = 0

    def update(self, X: Tensor, dY: Tensor) -> None:
        """Update the means from X `[B, T, p]` and the gradients dY `[B, T, o]` of the mean loss."""
        B, T = X.shape[:2]
        m_a = sum(X[n, t] for n in range(B) for t in range(T)) / (B * T)
        if self.g_scale == "fisher":
            m_g = sum((B * dY[n]).sum(0) for n in range(B)) / B
        else:
            m_g = dY.reshape(B * T, -1).mean(0)
        old = 0 if self.init == "first" and self.k == 0 else self.beta
        self.m_a = old * self.m_a + (1 - old) * m_a
        self.m_g = old * self.m_g + (1 - old) * m_g
        self.k += 1

    def invert(self) -> None:
        correction = 1 - self.beta**self.k if self.init == "zero" else 1
        v = torch.outer(self.m_g / correction, self.m_a / correction).reshape(-1)
        self.P = torch.linalg.inv(torch.outer(v, v) + self.rho * torch.eye(len(v)).double())

    def direction(self, G: Tensor) -> Tensor:
        return (self.P @ G.reshape(-1)).reshape(G.shape)
