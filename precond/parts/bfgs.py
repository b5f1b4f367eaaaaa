"""BFGS updates of inverse Hessians, for stacks of matrices H `[L, d, d]` and vectors `[L, d]`.

An update replaces H by the inverse Hessian that satisfies the secant equation H y = s and differs
least from the old one (Nocedal and Wright, "Numerical Optimization", chapters 6 and 7):

    H <- (I - s y^T / c) H (I - y s^T / c) + s s^T / c   with c = s^T y

H remains positive definite if c > 0. `usable` tests this, and `double_damping` changes pairs (s, y)
so that c is large enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precond.parts import linalg

POWELL = 0.2  # the smallest s^T y / y^T H y of a pair that is not damped
SMALLEST = 1e-4  # a pair is skipped if s^T y / s^T s is at most this multiple of a norm


@dataclass
class DenseBFGS:
    """H as dense matrices. `matrix: [L, d, d]`."""

    matrix: Tensor

    @classmethod
    def identity(cls, length: int, width: int, like: Tensor) -> DenseBFGS:
        """Return H = I."""
        eye = torch.eye(width, dtype=like.dtype, device=like.device)
        return cls(eye.repeat(length, 1, 1))

    def apply(self, x: Tensor) -> Tensor:
        """Return `H X` for X `[L, d, k]`."""
        return self.matrix @ x

    def update(self, s: Tensor, y: Tensor, ok: Tensor) -> None:
        """Update H with the pairs `[L, d]` in the slots where `ok [L]` is True."""
        new = _updated(self.matrix, s.unsqueeze(2), y.unsqueeze(2))
        self.matrix.copy_(linalg.select(ok & linalg.all_finite(new), new, self.matrix))


@dataclass
class LimitedBFGS:
    """H as the last m pairs, whose updates start at the identity.

    Attributes:
        s: `[L, m, d]`, the oldest pair first; zeros in place of pairs that do not exist yet.
        y: `[L, m, d]`.
    """

    s: Tensor
    y: Tensor

    @classmethod
    def empty(cls, length: int, memory: int, width: int, like: Tensor) -> LimitedBFGS:
        """Return H = I."""
        return cls(*(like.new_zeros(length, memory, width) for _ in range(2)))

    def apply(self, x: Tensor) -> Tensor:
        """Return `H X` for X `[L, d, k]`, by the compact form of Byrd, Nocedal and Schnabel (1994).

        With the pairs as rows of S and Y, R = triu(S Y^T), D = diag(S Y^T) and Q = R^{-1} S, it is
        H = I + Q^T (D + Y Y^T) Q - Q^T Y - Y^T Q.
        """
        s, y = self.s.double(), self.y.double()
        products = s @ y.mT
        diagonal = products.diagonal(dim1=1, dim2=2)
        # Pairs that do not exist are rows and columns of zeros; a 1 makes the matrix invertible.
        triangle = products.triu() + torch.diag_embed((diagonal == 0).to(s))
        q = torch.linalg.solve_triangular(triangle, s, upper=True).to(x.dtype)
        middle = (torch.diag_embed(diagonal) + y @ y.mT).to(x.dtype)
        qx = q @ x
        return x + q.mT @ (middle @ qx - self.y @ x) - self.y.mT @ qx

    def update(self, s: Tensor, y: Tensor, ok: Tensor) -> None:
        """Append the pairs `[L, d]`, and drop the oldest, in the slots where `ok [L]` is True."""
        for pairs, vector in ((self.s, s), (self.y, y)):
            appended = torch.cat([pairs[:, 1:], vector.unsqueeze(1).to(pairs.dtype)], 1)
            pairs.copy_(linalg.select(ok, appended, pairs))


Inverse = DenseBFGS | LimitedBFGS


def _updated(h: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """Return the updated matrices, for columns s and y `[L, d, 1]`."""
    c, hy = s.mT @ y, h @ y
    cross = s @ hy.mT / c
    return h + (1 + y.mT @ hy / c) * (s @ s.mT / c) - cross - cross.mT


def usable(s: Tensor, y: Tensor, norm: Tensor) -> Tensor:
    """Return a mask `[L]` of the pairs that are finite and have enough curvature.

    Args:
        s: Differences `[L, d]`.
        y: Differences of gradients `[L, d]`.
        norm: Norms `[L]`, such as those of the gradients. s^T y must exceed `SMALLEST` s^T s times
            this norm.
    """
    limit = SMALLEST * _dot(s, s) * norm
    enough = (_dot(s, y) > limit) & (_dot(s, y) > 0)
    return enough & linalg.all_finite(s) & linalg.all_finite(y)


def double_damping(h: Inverse, s: Tensor, y: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Return pairs with s^T y >= 0.2 y^T H y and s^T y >= bound s^T s.

    First, Powell's damping moves s towards H y; then, y is moved towards s. Each of the two is
    omitted where its inequality already holds.

    Args:
        h: The inverse Hessian H.
        s: Differences `[L, d]`.
        y: Differences of gradients `[L, d]`.
        bound: The smallest curvature s^T y / s^T s, at most 1.
    """
    hy = h.apply(y.unsqueeze(2)).squeeze(2)
    yhy, sy = _dot(y, hy), _dot(s, y)
    damped = (sy <= POWELL * yhy) & (yhy > 0)
    theta = torch.where(damped, (1 - POWELL) * yhy / (yhy - sy), 1)
    s = linalg.select(damped, hy + linalg.per_layer(theta, s) * (s - hy), s)
    ss, sy = _dot(s, s), _dot(s, y)
    damped = (sy <= bound * ss) & (ss > sy)
    theta = torch.where(damped, (1 - bound) * ss / (ss - sy), 1)
    return s, linalg.select(damped, s + linalg.per_layer(theta, y) * (y - s), y)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner products of vectors `[L, d]`, `[L]`."""
    return (x * y).sum(1)
