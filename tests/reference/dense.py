"""Conversion of factors to dense matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from precond.parts.factors import Dense, Kronecker, KroneckerEigen, LowRank, RankOne


def to_dense(factor: Any) -> Tensor:
    """Return a factor as a dense matrix for each layer.

    For `Dense` and `LowRank`, the matrix is P `[L, p, p]` with P(G) = G P. For all other factors,
    it is `[L, o p, o p]` and acts on vec(G), which contains the rows of G.
    """
    match factor:
        case Dense(inverse):
            return inverse
        case LowRank(z, damping):
            return torch.eye(z.shape[1], dtype=z.dtype, device=z.device) / damping - z @ z.mT
        case Kronecker(output_inverse, input_inverse):
            return kron(output_inverse, input_inverse)
        case KroneckerEigen(output_basis, input_basis, scale):
            basis = kron(output_basis, input_basis)
            return (basis * scale.flatten(1).unsqueeze(1)) @ basis.mT
        case RankOne(u, v, damping):
            w = (u.unsqueeze(-1) * v.unsqueeze(-2)).flatten(1)
            eye = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
            return (eye - w.unsqueeze(-1) * w.unsqueeze(-2)) / damping
    raise TypeError(type(factor))


def kron(left: Tensor, right: Tensor) -> Tensor:
    """Return the Kronecker products of two stacks of matrices."""
    product = torch.einsum("lij,lkm->likjm", left, right)
    return product.flatten(3, 4).flatten(1, 2)
