"""Pure functions on stacks of matrices `[L, d, d]`; nothing here knows about layers or optimizers.

A function that can fail returns a mask `ok: [L]` or an `Outcome` instead of raising, so that one bad layer does not
stop the others. The first attempt on the whole stack reads one flag from the device; only a failure costs more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast and no TF32: TF32 would put 1e-3 relative error into convolution sketches."""
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
        retried: The first attempt failed, whether or not another succeeded.
    """

    ok: Tensor
    retried: Tensor

    @classmethod
    def of(cls, ok: Tensor) -> Outcome:
        """Return the outcome of a method that has a single attempt."""
        return cls(ok, torch.zeros_like(ok))


def symmetrize(matrix: Tensor) -> Tensor:
    """The symmetric part, `[..., d, d]`."""
    return (matrix + matrix.mT) / 2


def all_finite(stack: Tensor) -> Tensor:
    """Which entries of a stack `[L, ...]` hold no inf or nan, as `[L]` bool; no host synchronisation.

    By their sum, which is the cheapest to take, and in float64 does not overflow where a float32 did not.
    """
    return stack.flatten(1).sum(1, dtype=torch.float64).isfinite()


def per_layer(values: Tensor, stack: Tensor) -> Tensor:
    """`values [L]` with as many axes as `stack [L, ...]`, to broadcast against it."""
    return values.view(-1, *[1] * (stack.dim() - 1))


def select(ok: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where the layer is ok, else `old`; `ok: [L]`, the others `[L, ...]`."""
    return torch.where(per_layer(ok, new), new, old)


def damped_inverse(matrix: Tensor, damping: float | Tensor) -> tuple[Tensor, Outcome]:
    """Return `(A + damping I)^{-1}` for a stack of positive semi-definite matrices.

    The first attempt is a Cholesky factorisation in the given precision. Where it fails, the eigenvalues are computed
    in float64 and clamped at 0: no float32 factorisation exists for a covariance whose norm times epsilon exceeds the
    damping (massive activations).

    Args:
        matrix: `[L, p, p]`, symmetric up to rounding.
        damping: Added to every eigenvalue, > 0: for all matrices, or `[L]` in float64.

    Returns:
        The inverses `[L, p, p]`, and the outcome; where that is not ok, the entry is meaningless.
    """
    if not isinstance(damping, Tensor):
        damping = torch.full(matrix.shape[:1], damping, dtype=torch.float64, device=matrix.device)
    damped = symmetrize(matrix)
    damped.diagonal(dim1=-2, dim2=-1).add_(damping.to(matrix.dtype).unsqueeze(-1))
    triangle, info = torch.linalg.cholesky_ex(damped)
    # cholesky_inverse raises on the zero diagonal that a failed factorisation can leave.
    inverse = torch.cholesky_inverse(
        select(info == 0, triangle, torch.eye(damped.shape[-1]).to(damped))
    )
    # Rounding lets some factorisations pass whose inverse is far off: no diagonal entry can exceed 1 / damping.
    ok = (info == 0) & (inverse.diagonal(dim1=-2, dim2=-1).amax(1) <= 1.1 / damping)
    if ok.all():
        return inverse, Outcome.of(ok)
    eigenvalues, basis, converged = eigh(symmetrize(matrix.double()))
    rescued = (basis / (eigenvalues.clamp(min=0) + damping.unsqueeze(-1)).unsqueeze(-2)) @ basis.mT
    return select(ok, inverse, rescued.to(matrix.dtype)), Outcome(ok | converged, retried=~ok)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues `[L, d]`, eigenvectors `[L, d, d]` and `ok [L]` of symmetric matrices, whatever they hold.

    Where an entry is not finite or the iteration does not converge, ok is False and the result that of the identity.
    """
    ok = all_finite(matrix)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    matrix = select(ok, matrix, eye)
    try:
        return *torch.linalg.eigh(matrix), ok
    except torch.linalg.LinAlgError:  # repeat with single matrices to find the one that failed
        if len(matrix) == 1:
            return *torch.linalg.eigh(eye.unsqueeze(0)), torch.zeros_like(ok)
        parts = [eigh(single.unsqueeze(0)) for single in matrix]
        values, vectors, converged = (torch.cat(part) for part in zip(*parts, strict=True))
        return values, vectors, ok & converged


def eigenbasis(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues `[L, d]` and eigenvectors `[L, d, d]` of positive semi-definite matrices, and `ok [L]`, in float64.

    Repeatable up to rounding: eigenvalues rise and are clamped at 0, the largest entry of each vector is positive.
    """
    values, vectors, ok = eigh(symmetrize(matrix.double()))
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return values.clamp(min=0), vectors * torch.where(largest < 0, -1, 1), ok
