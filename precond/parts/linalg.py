"""Pure functions on stacks of matrices `[L, d, d]`, independent of layers and optimizers.

A function that can fail returns a mask `ok: [L]` or an `Outcome` instead of raising an exception,
so that one failing layer does not stop the other layers. The first attempt, on the whole stack,
copies one flag from the device to the host. Only a failure requires more copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


def exact_arithmetic(device: torch.device) -> AbstractContextManager[None]:
    """Disable gradients, autocast and TF32 inside the `with` block.

    TF32 would cause a relative error of 1e-3 in the sketches of convolutions.
    """
    # Entering autocast takes several microseconds, for each layer in a statistics step.
    plain = device.type != "cuda" and not torch.is_autocast_enabled(device.type)
    return torch.no_grad() if plain else _exact_arithmetic(device)


@contextmanager
def _exact_arithmetic(device: torch.device) -> Iterator[None]:
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        matmul: Any = torch.backends.cuda.matmul
        convolution: Any = torch.backends.cudnn
        allowed = matmul.allow_tf32, convolution.allow_tf32
        matmul.allow_tf32 = convolution.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32, convolution.allow_tf32 = allowed


class Outcome(NamedTuple):
    """The result of a factorisation of each matrix in a stack, `[L]` bool.

    Attributes:
        ok: The matrix was factored.
        retried: The first attempt failed; a later attempt may have succeeded.
    """

    ok: Tensor
    retried: Tensor

    @classmethod
    def of(cls, ok: Tensor) -> Outcome:
        """Return the outcome of a single attempt."""
        return cls(ok, torch.zeros_like(ok))


def symmetrize(matrix: Tensor) -> Tensor:
    """Return the symmetric part of matrices `[..., d, d]`."""
    return (matrix + matrix.mT) / 2


def all_finite(stack: Tensor) -> Tensor:
    """Return a bool mask `[L]` of the slots of a stack `[L, ...]` that contain no inf or nan.

    The function tests the sum in float64, which a sum of finite float32 numbers cannot overflow.
    The host does not wait for the device. On a CPU, a sum in float64 would first copy the stack, so
    it is computed only if a sum in the dtype of the stack is not finite.
    """
    rows = stack.flatten(1)
    if stack.device.type == "cpu" and (ok := rows.sum(1).isfinite()).all():
        return ok
    return rows.sum(1, dtype=torch.float64).isfinite()


def per_layer(values: Tensor, stack: Tensor) -> Tensor:
    """Return `values [L]` with axes of length 1 added, to broadcast against `stack [L, ...]`."""
    return values.view(-1, *[1] * (stack.dim() - 1))


def select(ok: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return `new [L, ...]` in the slots where `ok [L]` is True, and `old [L, ...]` elsewhere."""
    return torch.where(per_layer(ok, new), new, old)


def damped_inverse(matrix: Tensor, damping: float | Tensor) -> tuple[Tensor, Outcome]:
    """Return `(A + damping I)^{-1}` for one stack of matrices, as `damped_inverses` does."""
    [inverse] = damped_inverses((matrix, damping))
    return inverse


def damped_inverses(*pairs: tuple[Tensor, float | Tensor]) -> list[tuple[Tensor, Outcome]]:
    """Return `(A + damping I)^{-1}` for stacks of positive semi-definite matrices.

    The first attempt is a Cholesky factorisation in the precision of the matrix. Where it fails,
    the inverse is computed from the float64 eigenvalues, clamped at 0. In float32, the
    factorisation can fail if the norm of a covariance times the machine epsilon exceeds the
    damping, because of very large activations. The host reads one flag for all stacks.

    Args:
        *pairs: The matrices `[L, p, p]`, symmetric up to rounding, and the number > 0 that is added
            to every eigenvalue: one number for all matrices, or `[L]` in float64.

    Returns:
        For each pair, the inverses `[L, p, p]` and the outcome. Where `ok` is False, the inverse is
        meaningless.
    """
    stacks = [
        (matrix, torch.full_like(matrix[:, 0, 0], damping, dtype=torch.float64))
        if not isinstance(damping, Tensor)
        else (matrix, damping)
        for matrix, damping in pairs
    ]
    attempts = [_invert_by_cholesky(matrix, damping) for matrix, damping in stacks]
    if torch.stack([ok.all() for _, ok in attempts]).all():
        return [(inverse, Outcome.of(ok)) for inverse, ok in attempts]
    return [
        _invert_by_eigenvalues(*stack, *attempt)
        for stack, attempt in zip(stacks, attempts, strict=True)
    ]


def _invert_by_cholesky(matrix: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return the damped inverses, and a mask `[L]` of those that can be used."""
    damped = symmetrize(matrix)
    damped.diagonal(dim1=-2, dim2=-1).add_(damping.to(matrix.dtype).unsqueeze(-1))
    triangle, info = torch.linalg.cholesky_ex(damped)
    # cholesky_inverse raises for a zero on the diagonal, which a failed factorisation can leave.
    eye = torch.eye(damped.shape[-1], dtype=damped.dtype, device=damped.device)
    inverse = torch.cholesky_inverse(select(info == 0, triangle, eye))
    # A factorisation can succeed although rounding errors make the inverse far too large. No
    # diagonal entry of the exact inverse exceeds 1 / damping.
    return inverse, (info == 0) & (inverse.diagonal(dim1=-2, dim2=-1).amax(1) <= 1.1 / damping)


def _invert_by_eigenvalues(
    matrix: Tensor, damping: Tensor, inverse: Tensor, ok: Tensor
) -> tuple[Tensor, Outcome]:
    """Replace the damped inverses where `ok [L]` is False; return all inverses and the outcome."""
    eigenvalues, basis, converged = eigh(symmetrize(matrix.double()))
    rescued = (basis / (eigenvalues.clamp(min=0) + damping.unsqueeze(-1)).unsqueeze(-2)) @ basis.mT
    return select(ok, inverse, rescued.to(matrix.dtype)), Outcome(ok | converged, retried=~ok)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues `[L, d]`, eigenvectors `[L, d, d]` and `ok [L]` of symmetric matrices.

    The function never raises. Where a matrix is not finite or the iteration does not converge, ok
    is False and the result is that of the identity matrix.
    """
    ok = all_finite(matrix)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    matrix = select(ok, matrix, eye)
    try:
        return *torch.linalg.eigh(matrix), ok
    except torch.linalg.LinAlgError:  # repeat matrix by matrix to find the one that failed
        if len(matrix) == 1:
            return *torch.linalg.eigh(eye.unsqueeze(0)), torch.zeros_like(ok)
        parts = [eigh(single.unsqueeze(0)) for single in matrix]
        values, vectors, converged = (torch.cat(part) for part in zip(*parts, strict=True))
        return values, vectors, ok & converged


def eigenbasis(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues `[L, d]`, eigenvectors `[L, d, d]` and `ok [L]` in float64.

    The matrices are positive semi-definite. To make the result reproducible up to rounding, the
    eigenvalues are ascending and clamped at 0, and the entry of each eigenvector with the largest
    absolute value is positive.
    """
    values, vectors, ok = eigh(symmetrize(matrix.double()))
    return values.clamp(min=0), with_fixed_signs(vectors), ok


def with_fixed_signs(vectors: Tensor) -> Tensor:
    """Return matrices `[L, d, d]` whose columns have a fixed sign.

    The entry of each column with the largest absolute value is positive.
    """
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return vectors * torch.where(largest < 0, -1, 1)
