"""Eigenbases of covariances, with a reproducible basis of the null space of a singular covariance.

A covariance of fewer rows than inputs is singular. Every orthonormal basis of its null space is a
basis of eigenvectors, and `eigh` returns one that depends on rounding errors. `eigenbases` instead
returns the eigenvectors of P diag(w) P, where P is the projector on the null space and the weights
w are different for all coordinates. This basis is determined by the null space alone. If the null
space contains coordinate axes, such as those of dead inputs, they are vectors of the basis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from precond.parts import linalg

# An eigenvalue counts as zero if it is at most 16 sqrt(d) times the error that `_decompose`
# computes for it. In random float32 covariances, the eigenvalues of null spaces were at most
# 4 sqrt(d) times this error.
ZERO = 16.0


class Eigenbasis(NamedTuple):
    """The eigenbases of a stack of positive semi-definite matrices, in float64.

    Attributes:
        values: The eigenvalues, `[L, d]`: those of the null space, which are 0, then the others in
            ascending order.
        vectors: The eigenvectors, `[L, d, d]`; the entry of each with the largest absolute value is
            positive.
        null: True for the vectors of the null space, `[L, d]`.
        ok: The matrix was decomposed, `[L]`.
    """

    values: Tensor
    vectors: Tensor
    null: Tensor
    ok: Tensor


def eigenbases(*matrices: Tensor, seen: Tensor | None = None) -> tuple[list[Eigenbasis], bool]:
    """Return the eigenbases of stacks of matrices `[L, d, d]`, which may differ in d.

    Args:
        matrices: The stacks.
        seen: True for the matrices that contain data, `[L]`. Default: all.

    Returns:
        The bases, and True if all matrices contain data, were decomposed, and are regular. The host
        reads only this and which stacks have a null space, in one copy. A second decomposition of the
        stacks that have one computes the bases of the null spaces.
    """
    bases = [_decompose(matrix) for matrix in matrices]
    problems = [~basis.ok for basis in bases] + ([] if seen is None else [~seen])
    flags = [*(basis.null.any() for basis in bases), torch.stack(problems).any()]
    *singular, incomplete = torch.stack(flags).tolist()
    complete = [
        _with_determined_null_space(basis) if has_null_space else basis
        for basis, has_null_space in zip(bases, singular, strict=True)
    ]
    return complete, not (incomplete or any(singular))


def _decompose(matrix: Tensor) -> Eigenbasis:
    """Return the eigenbases as `eigh` computes them, with the null space first.

    Entry ij of a covariance A has an error of about eps sqrt(A_ii A_jj). The eigenvalue of a vector
    v therefore has an error of about eps sum_i v_i^2 A_ii, for the eps of the dtype of A. An error
    in float64, relative to the largest eigenvalue, is added by `eigh`.
    """
    values, vectors, ok = linalg.eigenbasis(matrix)
    variances = matrix.double().diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    error = torch.finfo(matrix.dtype).eps * (vectors.square().mT @ variances).squeeze(-1)
    error += torch.finfo(values.dtype).eps * values[:, -1:]
    null = values <= ZERO * values.shape[-1] ** 0.5 * error
    order = (~null).to(torch.uint8).argsort(dim=-1, stable=True)
    values, null = values.masked_fill(null, 0).gather(-1, order), null.gather(-1, order)
    return Eigenbasis(values, vectors.gather(-1, order.unsqueeze(-2).expand_as(vectors)), null, ok)


def _with_determined_null_space(basis: Eigenbasis) -> Eigenbasis:
    """Replace the vectors of the null space by the eigenvectors of P diag(w) P.

    The weights are w_i = e^(i / (d - 1)). With equally spaced weights, two eigenvectors could have
    the same eigenvalue, such as (w_1 + w_4) / 2 = (w_2 + w_3) / 2, and rounding errors would
    determine the basis again. Sums of different powers of e are different.
    """
    width, null = basis.null.shape[-1], basis.null.unsqueeze(-2)
    projector = (basis.vectors * null) @ basis.vectors.mT
    weights = torch.linspace(0, 1, width).to(projector).exp()
    # Eigenvalues of `target` are between 1 and e in the null space, and 4 elsewhere, so that `eigh`
    # returns the null space first.
    target = projector @ (weights.unsqueeze(-1) * projector) - 4 * projector
    target.diagonal(dim1=-2, dim2=-1).add_(4)
    _, vectors, ok = linalg.eigh(linalg.symmetrize(target))
    vectors = torch.where(null, linalg.with_fixed_signs(vectors), basis.vectors)
    return basis._replace(vectors=vectors, ok=basis.ok & ok)
