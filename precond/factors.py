"""Statistics in a form that is cheap to apply: a stack of symmetric P `[L, p, p]`, applied as G P on the right.

Each starts as `I / damping`, which is SGD with the learning rate lr / damping, and keeps its last good value where a
refresh fails. `to_dense` says what it represents, for tests and diagnostics only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precond import linalg


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

    def to_dense(self) -> Tensor:
        """P, `[L, p, p]`."""
        return self.inverse


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

    def to_dense(self) -> Tensor:
        """P, `[L, p, p]`."""
        eye = torch.eye(self.z.shape[1], dtype=self.z.dtype, device=self.z.device)
        return eye / self.damping - self.z @ self.z.mT
