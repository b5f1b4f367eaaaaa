"""Statistics in a form that is cheap to apply: a stack of symmetric maps P of gradients G `[L, o, p]`.

Each starts as `I / damping`, which is SGD with the learning rate lr / damping, and keeps its last good value where a
refresh fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precond.parts import linalg


@dataclass
class Dense:
    """P itself. `inverse: [L, p, p]`."""

    inverse: Tensor

    @classmethod
    def identity(cls, num_layers: int, width: int, damping: float, like: Tensor) -> Dense:
        """`I / damping`."""
        eye = torch.eye(width, dtype=like.dtype, device=like.device) / damping
        return cls(eye.repeat(num_layers, 1, 1))

    def store(self, inverse: Tensor, ok: Tensor) -> None:
        """Take new values where `ok: [L]`."""
        self.inverse.copy_(linalg.select(ok, inverse, self.inverse))

    def solve(self, gradients: Tensor) -> Tensor:
        """`G P` for G `[L, o, p]`."""
        return gradients @ self.inverse


@dataclass
class LowRank:
    """P = I / damping - Z Z^T, applied with 4 o p r operations. `z: [L, p, r]`."""

    z: Tensor
    damping: float

    @classmethod
    def identity(cls, num_layers: int, width: int, rank: int, damping: float, like: Tensor) -> LowRank:
        """`I / damping`: Z = 0."""
        return cls(like.new_zeros(num_layers, width, rank), damping)

    def store(self, z: Tensor, ok: Tensor) -> None:
        """Take new values where `ok: [L]`."""
        self.z.copy_(linalg.select(ok, z.to(self.z.dtype), self.z))

    def solve(self, gradients: Tensor) -> Tensor:
        """`G P` for G `[L, o, p]`."""
        return torch.baddbmm(gradients, gradients @ self.z, self.z.mT, beta=1 / self.damping, alpha=-1)

    def root(self) -> Tensor:
        """Y `[L, p, r]` in float64 with Y Y^T = P^{-1} - damping I, for Z with orthogonal columns.

        A column of length^2 w / damping stands for the eigenvalue damping w / (1 - w), as far as Z's precision tells.
        """
        z = self.z.double()
        w = self.damping * z.square().sum(1, keepdim=True)
        return z * self.damping / (1 - w).clamp(min=torch.finfo(self.z.dtype).eps).sqrt()


@dataclass
class Kronecker:
    """D = S G Q, with 2 o p (o + p) operations. `output_inverse: [L, o, o]` is S, `input_inverse: [L, p, p]` is Q."""

    output_inverse: Tensor
    input_inverse: Tensor

    @classmethod
    def identity(cls, num_layers: int, d_out: int, d_in: int, damping: float, like: Tensor) -> Kronecker:
        """`I / damping`, shared equally."""
        sides = [Dense.identity(num_layers, width, damping**0.5, like).inverse for width in (d_out, d_in)]
        return cls(*sides)

    def store(self, output_inverse: Tensor, input_inverse: Tensor, ok: Tensor) -> None:
        """Take new values where `ok: [L]`; the two sides go together."""
        self.output_inverse.copy_(linalg.select(ok, output_inverse, self.output_inverse))
        self.input_inverse.copy_(linalg.select(ok, input_inverse, self.input_inverse))

    def solve(self, gradients: Tensor) -> Tensor:
        """`S G Q` for G `[L, o, p]`."""
        return self.output_inverse @ gradients @ self.input_inverse


@dataclass
class KroneckerEigen:
    """D = U [(U^T G V) * scale] V^T: diagonal in a Kronecker basis; applied with 4 o p (o + p) operations.

    Attributes:
        output_basis: U, `[L, o, o]`.
        input_basis: V, `[L, p, p]`.
        scale: `[L, o, p]`, positive.
    """

    output_basis: Tensor
    input_basis: Tensor
    scale: Tensor

    @classmethod
    def identity(cls, num_layers: int, d_out: int, d_in: int, damping: float, like: Tensor) -> KroneckerEigen:
        """`I / damping`."""
        bases = [Dense.identity(num_layers, width, 1.0, like).inverse for width in (d_out, d_in)]
        return cls(*bases, scale=like.new_full((num_layers, d_out, d_in), 1 / damping))

    def store(self, output_basis: Tensor, input_basis: Tensor, scale: Tensor, ok: Tensor) -> None:
        """Take new values where `ok: [L]`; the three go together."""
        for old, new in ((self.output_basis, output_basis), (self.input_basis, input_basis), (self.scale, scale)):
            old.copy_(linalg.select(ok, new.to(old.dtype), old))

    def solve(self, gradients: Tensor) -> Tensor:
        """`U [(U^T G V) * scale] V^T` for G `[L, o, p]`."""
        rotated = self.output_basis.mT @ gradients @ self.input_basis
        return self.output_basis @ (rotated * self.scale) @ self.input_basis.mT


@dataclass
class KroneckerBasis:
    """Two orthogonal bases, the identity at first. `output: [L, o, o]` is U, `input: [L, p, p]` is V."""

    output: Tensor
    input: Tensor

    @classmethod
    def identity(cls, num_layers: int, d_out: int, d_in: int, like: Tensor) -> KroneckerBasis:
        """U = V = I."""
        return cls(*(Dense.identity(num_layers, width, 1.0, like).inverse for width in (d_out, d_in)))

    def store(self, output: Tensor, input: Tensor, ok: Tensor) -> None:
        """Take new values where `ok: [L]`; the two go together."""
        self.output.copy_(linalg.select(ok, output.to(self.output.dtype), self.output))
        self.input.copy_(linalg.select(ok, input.to(self.input.dtype), self.input))

    def rotate(self, gradients: Tensor) -> Tensor:
        """`U^T G V` for G `[L, o, p]`."""
        return self.output.mT @ gradients @ self.input

    def restore(self, rotated: Tensor) -> Tensor:
        """`U D V^T`, the inverse of `rotate`."""
        return self.output @ rotated @ self.input.mT


@dataclass
class RankOne:
    """P = (I - vec(u v^T) vec(u v^T)^T) / damping, applied with 5 o p operations. `u: [L, o]`, `v: [L, p]`."""

    u: Tensor
    v: Tensor
    damping: float

    @classmethod
    def identity(cls, num_layers: int, d_out: int, d_in: int, damping: float, like: Tensor) -> RankOne:
        """`I / damping`: u = v = 0."""
        return cls(like.new_zeros(num_layers, d_out), like.new_zeros(num_layers, d_in), damping)

    def store(self, u: Tensor, v: Tensor, ok: Tensor) -> None:
        """Take new values where `ok: [L]`."""
        self.u.copy_(linalg.select(ok, u.to(self.u.dtype), self.u))
        self.v.copy_(linalg.select(ok, v.to(self.v.dtype), self.v))

    def solve(self, gradients: Tensor) -> Tensor:
        """`(G - (u^T G v) u v^T) / damping` for G `[L, o, p]`."""
        u, v = self.u.unsqueeze(-1), self.v.unsqueeze(-1)
        return torch.baddbmm(
            gradients, u * (u.mT @ gradients @ v), v.mT, beta=1 / self.damping, alpha=-1 / self.damping
        )
