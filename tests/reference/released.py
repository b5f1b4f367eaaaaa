"""The released code of the NysAct authors for one layer, including its bugs.

It uses dense matrices and full SVDs. The package must reproduce it with the options "official" of
NysAct, and with `init="identity"` and `first_inverse="skip"` of FOOF.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def update_inverse(C: Tensor, Omega_last: Tensor, rho: float) -> Tensor:
    """Return P of NysAct's function `update_inverse`, from the bias-corrected `C [p, r]`."""
    p, r = C.shape
    C_rho = C + rho * Omega_last
    W = Omega_last.T @ C_rho
    mu, Q = torch.linalg.eigh(W)  # W may be asymmetric: eigh reads its lower triangle
    s = torch.abs(torch.min(mu)) + rho
    L = torch.linalg.cholesky(Q @ torch.diag(mu + s) @ Q.T)
    # This solves X L = C_rho; L should be transposed.
    X = torch.linalg.solve_triangular(L, C_rho, upper=False, left=False)
    U, S, _ = torch.linalg.svd(X, full_matrices=True)
    U_r = U[:, :r]
    lam = torch.clamp(S**2 - s, min=0)
    eye = torch.eye(p, dtype=C.dtype)
    return U_r @ torch.diag(1 / (lam + rho)) @ U_r.T + (eye - U_r @ U_r.T) / rho


class NysAct:
    """NysAct with a new Omega in each update: C averages over all Omegas, W uses only the last.

    Args:
        Omegas: The test matrices, one for each update, in order.
        beta: Weight of the old C in the moving average.
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
        """Compute P from the bias-corrected average."""
        self.P = update_inverse(self.C / (1 - self.beta**self.k), self.Omega, self.rho)


class FOOF:
    """FOOF with A = I initially, without bias correction, and P = I until the second inversion.

    The released class divides A by 1 - beta^k, where k counts the updates of all layers together.
    This class does not: in a deep model, the divisor is 1 when A is first used.
    """

    def __init__(self, p: int, *, beta: float, rho: float):
        self.beta, self.rho = beta, rho
        self.A = torch.eye(p, dtype=torch.float64)
        self.P = torch.eye(p, dtype=torch.float64)
        self.step_0 = True

    def update(self, X: Tensor) -> None:
        """A <- beta A + (1 - beta) X^T X / N."""
        self.A = self.beta * self.A + (1 - self.beta) * X.T @ X / len(X)

    def invert(self) -> None:
        """Compute P, except in the first call, at step 0."""
        if not self.step_0:
            self.P = torch.linalg.inv(
                self.A + self.rho * torch.eye(len(self.A), dtype=torch.float64)
            )
        self.step_0 = False


def nag_step(
    p: Tensor, gradient: Tensor, buffers: dict[str, Tensor], lr: float, mu: float, decay: float
) -> None:
    """Take a step with Nesterov momentum; the first step has no look-ahead."""
    d = gradient + decay * p
    if "momentum" not in buffers:
        buffers["momentum"] = d.clone()
    else:
        buffers["momentum"] = mu * buffers["momentum"] + d
        d = d + mu * buffers["momentum"]
    p -= lr * d
