"""Factors: forms of the statistics that are cheap to apply to gradients.

A factor is a stack of symmetric linear maps P, which map gradients G `[L, o, p]` to directions. Its
initial value is `I / damping`, which is SGD with the learning rate lr / damping. In a slot where a
refresh fails, the factor does not change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from precond.parts import linalg
from precond.parts.eigenbases import eigenbases


class Stored:
    """Base class of dataclasses of stacks `[L, ...]` that a refresh replaces together."""

    def store(self, ok: Tensor, *new: Tensor) -> None:
        """Copy new tensors, in the order of the fields, into the slots where `ok [L]` is True."""
        stacks = (value for value in vars(self).values() if isinstance(value, Tensor))
        for old, value in zip(stacks, new, strict=True):
            old.copy_(linalg.select(ok, value.to(old.dtype), old))


class Factor(Stored, ABC):
    """A stack of maps P."""

    @abstractmethod
    def solve(self, gradients: Tensor, overwrite: bool = False) -> Tensor:
        """Return `P(G)` for G `[L, o, p]`, in a new tensor or, if `overwrite` is True, in G."""


@dataclass
class Dense(Factor):
    """P as a dense matrix. `inverse: [L, p, p]`."""

    inverse: Tensor

    @classmethod
    def identity(cls, num_layers: int, width: int, damping: float, like: Tensor) -> Dense:
        """Return `I / damping`."""
        eye = torch.eye(width, dtype=like.dtype, device=like.device) / damping
        return cls(eye.repeat(num_layers, 1, 1))

    def solve(self, gradients: Tensor, overwrite: bool = False) -> Tensor:
        """Return `G P` for G `[L, o, p]`."""
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
        """Return `I / damping`, as Z = 0."""
        return cls(like.new_zeros(num_layers, width, rank), damping)

    def solve(self, gradients: Tensor, overwrite: bool = False) -> Tensor:
        """Return `G P` for G `[L, o, p]`."""
        # G Z as (Z^T G^T)^T: on a CPU, a product with few rows is 2 to 4 times as fast as one with
        # few columns.
        out, products = gradients if overwrite else None, (self.z.mT @ gradients.mT).mT
        return torch.baddbmm(
            gradients, products, self.z.mT, beta=1 / self.damping, alpha=-1, out=out
        )

    def root(self) -> Tensor:
        """Return Y `[L, p, r]` in float64 with Y Y^T = P^{-1} - damping I.

        The columns of Z must be orthogonal. A column of squared length w / damping represents the
        eigenvalue damping w / (1 - w), up to the precision of Z.
        """
        z = self.z.double()
        w = self.damping * z.square().sum(1, keepdim=True)
        return z * self.damping / (1 - w).clamp(min=torch.finfo(self.z.dtype).eps).sqrt()


@dataclass
class Kronecker(Factor):
    """The map P(G) = P_S G P_A, applied with 2 o p (o + p) operations.

    Attributes:
        output_inverse: P_S, `[L, o, o]`.
        input_inverse: P_A, `[L, p, p]`.
    """

    output_inverse: Tensor
    input_inverse: Tensor

    @classmethod
    def identity(
        cls, num_layers: int, d_out: int, d_in: int, damping: float, like: Tensor
    ) -> Kronecker:
        """Return `I / damping`: P_S and P_A are I / sqrt(damping)."""
        sides = (Dense.identity(num_layers, width, damping**0.5, like) for width in (d_out, d_in))
        return cls(*(side.inverse for side in sides))

    def solve(self, gradients: Tensor, overwrite: bool = False) -> Tensor:
        """Return `P_S G P_A` for G `[L, o, p]`."""
        return self.output_inverse @ gradients @ self.input_inverse


@dataclass
class KroneckerEigen(Factor):
    """The map P(G) = U [(U^T G V) * scale] V^T, applied with 4 o p (o + p) operations.

    The map is diagonal in the Kronecker product of the bases U and V.

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
        """Return `I / damping`."""
        bases = [Dense.identity(num_layers, width, 1.0, like).inverse for width in (d_out, d_in)]
        return cls(*bases, scale=like.new_full((num_layers, d_out, d_in), 1 / damping))

    def solve(self, gradients: Tensor, overwrite: bool = False) -> Tensor:
        """Return `U [(U^T G V) * scale] V^T` for G `[L, o, p]`."""
        rotated = self.output_basis.mT @ gradients @ self.input_basis
        return self.output_basis @ (rotated * self.scale) @ self.input_basis.mT


# Multiple of eps times the norm of the gradient. In random layers in float32, the components of
# gradients in the null spaces of their covariances were at most 3 eps times the norm. With inputs
# whose mean is 30 times their standard deviation, they reached 16 eps, so some are not removed.
ROUNDING_ERROR = 8.0


@dataclass
class KroneckerBasis(Stored):
    """Orthogonal bases of outputs and inputs, initially the identity.

    Attributes:
        output: U, `[L, o, o]`.
        input: V, `[L, p, p]`.
        output_null: True for the columns of U in the null space of a covariance, `[L, o]`.
        input_null: True for the columns of V in the null space of a covariance, `[L, p]`.
    """

    output: Tensor
    input: Tensor
    output_null: Tensor
    input_null: Tensor
    # True if it is known on the host that there are no null spaces.
    _regular: bool = field(default=False, init=False)

    @classmethod
    def identity(cls, num_layers: int, d_out: int, d_in: int, like: Tensor) -> KroneckerBasis:
        """Return U = V = I without null spaces."""
        widths = d_out, d_in
        bases = (Dense.identity(num_layers, width, 1.0, like).inverse for width in widths)
        null = (like.new_zeros(num_layers, width, dtype=torch.bool) for width in widths)
        return cls(*bases, *null)

    def update(self, s: Tensor, a: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace the bases by those of covariances, in the slots where `fresh [L]` is True.

        Args:
            s: Covariances of the output gradients, `[L, o, o]`.
            a: Covariances of the inputs, `[L, p, p]`.
            fresh: Mask of the slots with new covariances.

        Returns:
            The eigenvalues of s and a, and a mask of the slots whose bases were replaced.
        """
        (outputs, inputs), self._regular = eigenbases(s, a, seen=fresh)
        ok = fresh & outputs.ok & inputs.ok
        self.store(ok, outputs.vectors, inputs.vectors, outputs.null, inputs.null)
        return outputs.values, inputs.values, ok

    def rotate(self, gradients: Tensor) -> Tensor:
        """Return `U^T G V` for G `[L, o, p]`, without rounding errors in the null spaces."""
        return self.without_rounding_errors(self.output.mT @ gradients @ self.input)

    def without_rounding_errors(self, rotated: Tensor) -> Tensor:
        """Set components in null spaces to 0 if they are as small as rounding errors.

        A gradient has no component in the null space of a covariance that was computed from the
        same rows. The computed components there are rounding errors, which methods that divide by
        second moments would amplify.

        Args:
            rotated: `U^T G V` for matrices G `[L, o, p]`.
        """
        if self._regular:
            return rotated
        norm = torch.linalg.vector_norm(rotated, dim=(1, 2), keepdim=True, dtype=torch.float64)
        limit = (ROUNDING_ERROR * torch.finfo(rotated.dtype).eps * norm).to(rotated.dtype)
        null = self.output_null.unsqueeze(2) | self.input_null.unsqueeze(1)
        return rotated.masked_fill(null & (rotated.abs() <= limit), 0)

    def restore(self, rotated: Tensor) -> Tensor:
        """Return `U D V^T`, the inverse of `rotate`."""
        return self.output @ rotated @ self.input.mT


@dataclass
class RankOne(Factor):
    """P = (I - w w^T) / damping with w = vec(u v^T), applied with 5 o p operations.

    The vectors are `u: [L, o]` and `v: [L, p]`.
    """

    u: Tensor
    v: Tensor
    damping: float

    @classmethod
    def identity(
        cls, num_layers: int, d_out: int, d_in: int, damping: float, like: Tensor
    ) -> RankOne:
        """Return `I / damping`, as u = v = 0."""
        return cls(like.new_zeros(num_layers, d_out), like.new_zeros(num_layers, d_in), damping)

    def solve(self, gradients: Tensor, overwrite: bool = False) -> Tensor:
        """Return `(G - (u^T G v) u v^T) / damping` for G `[L, o, p]`."""
        u, v = self.u.unsqueeze(-1), self.v.unsqueeze(-1)
        out, left = gradients if overwrite else None, u * (u.mT @ gradients @ v)
        scale = 1 / self.damping
        return torch.baddbmm(gradients, left, v.mT, beta=scale, alpha=-scale, out=out)
