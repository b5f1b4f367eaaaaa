"""Statistics in a form that is cheap to apply: a stack of symmetric maps P of gradients G `[L, o, p]`.

Each starts as `I / damping`, which is SGD with the learning rate lr / damping, and keeps its last good value where a
refresh fails.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from precond.parts import linalg


class Stored:
    """A dataclass of stacks `[L, ...]` that a refresh replaces together."""

    def store(self, ok: Tensor, *new: Tensor) -> None:
        """Take new values of the tensors, in the order of the fields, where `ok: [L]`."""
        stacks = (value for value in vars(self).values() if isinstance(value, Tensor))
        for old, value in zip(stacks, new, strict=True):
            old.copy_(linalg.select(ok, value.to(old.dtype), old))


class Factor(Stored, ABC):
    """A stack of maps P."""

    @abstractmethod
    def solve(self, gradients: Tensor) -> Tensor:
        """Return `P(G)` for G `[L, o, p]`."""


@dataclass
class Dense(Factor):
    """P itself. `inverse: [L, p, p]`."""

    inverse: Tensor

    @classmethod
    def identity(cls, num_layers: int, width: int, damping: float, like: Tensor) -> Dense:
        """`I / damping`."""
        eye = torch.eye(width, dtype=like.dtype, device=like.device) / damping
        return cls(eye.repeat(num_layers, 1, 1))

    def solve(self, gradients: Tensor) -> Tensor:
        """`G P` for G `[L, o, p]`."""
        return gradients @ self.inverse


@dataclass
class LowRank(Factor):
    """P = I / damping - Z Z^T, applied with 4 o p r operations. `z: [L, p, r]`."""

    z: Tensor
    damping: float

    @classmethod
    def identity(
        cls, num_layers: int, width: int, rank: int, damping: float, like: Tensor
    ) -> LowRank:
        """`I / damping`: Z = 0."""
        return cls(like.new_zeros(num_layers, width, rank), damping)

    def solve(self, gradients: Tensor) -> Tensor:
        """`G P` for G `[L, o, p]`."""
        return torch.baddbmm(
            gradients, gradients @ self.z, self.z.mT, beta=1 / self.damping, alpha=-1
        )

    def root(self) -> Tensor:
        """Y `[L, p, r]` in float64 with Y Y^T = P^{-1} - damping I, for Z with orthogonal columns.

        A column of length^2 w / damping stands for the eigenvalue damping w / (1 - w), as far as Z's precision tells.
        """
        z = self.z.double()
        w = self.damping * z.square().sum(1, keepdim=True)
        return z * self.damping / (1 - w).clamp(min=torch.finfo(self.z.dtype).eps).sqrt()


@dataclass
class Kronecker(Factor):
    """D = S G Q, with 2 o p (o + p) operations. `output_inverse: [L, o, o]` is S, `input_inverse: [L, p, p]` is Q."""

    output_inverse: Tensor
    input_inverse: Tensor

    @classmethod
    def identity(
        cls, num_layers: int, d_out: int, d_in: int, damping: float, like: Tensor
    ) -> Kronecker:
        """`I / damping`, shared equally."""
        sides = (Dense.identity(num_layers, width, damping**0.5, like) for width in (d_out, d_in))
        return cls(*(side.inverse for side in sides))

    def solve(self, gradients: Tensor) -> Tensor:
        """`S G Q` for G `[L, o, p]`."""
        return self.output_inverse @ gradients @ self.input_inverse


@dataclass
class KroneckerEigen(Factor):
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
    def identity(
        cls, num_layers: int, d_out: int, d_in: int, damping: float, like: Tensor
    ) -> KroneckerEigen:
        """`I / damping`."""
        bases = [Dense.identity(num_layers, width, 1.0, like).inverse for width in (d_out, d_in)]
        return cls(*bases, scale=like.new_full((num_layers, d_out, d_in), 1 / damping))

    def solve(self, gradients: Tensor) -> Tensor:
        """`U [(U^T G V) * scale] V^T` for G `[L, o, p]`."""
        rotated = self.output_basis.mT @ gradients @ self.input_basis
        return self.output_basis @ (rotated * self.scale) @ self.input_basis.mT


@dataclass
class KroneckerBasis(Stored):
    """Two orthogonal bases, the identity at first. `output: [L, o, o]` is U, `input: [L, p, p]` is V."""

    output: Tensor
    input: Tensor

    @classmethod
    def identity(cls, num_layers: int, d_out: int, d_in: int, like: Tensor) -> KroneckerBasis:
        """U = V = I."""
        return cls(
            *(Dense.identity(num_layers, width, 1.0, like).inverse for width in (d_out, d_in))
        )

    def rotate(self, gradients: Tensor) -> Tensor:
        """`U^T G V` for G `[L, o, p]`."""
        return self.output.mT @ gradients @ self.input

    def restore(self, rotated: Tensor) -> Tensor:
        """`U D V^T`, the inverse of `rotate`."""
        return self.output @ rotated @ self.input.mT


@dataclass
class RankOne(Factor):
    """P = (I - vec(u v^T) vec(u v^T)^T) / damping, applied with 5 o p operations. `u: [L, o]`, `v: [L, p]`."""

    u: Tensor
    v: Tensor
    damping: float

    @classmethod
    def identity(
        cls, num_layers: int, d_out: int, d_in: int, damping: float, like: Tensor
    ) -> RankOne:
        """`I / damping`: u = v = 0."""
        return cls(like.new_zeros(num_layers, d_out), like.new_zeros(num_layers, d_in), damping)

    def solve(self, gradients: Tensor) -> Tensor:
        """`(G - (u^T G v) u v^T) / damping` for G `[L, o, p]`."""
        u, v = self.u.unsqueeze(-1), self.v.unsqueeze(-1)
        scale = 1 / self.damping
        return torch.baddbmm(gradients, u * (u.mT @ gradients @ v), v.mT, beta=scale, alpha=-scale)
