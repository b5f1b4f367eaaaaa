"""Pure functions on stacks of matrices `[L, d, d]`; nothing here knows about layers or optimizers.

Every function that can fail returns a mask `ok: [L]` instead of raising: one bad layer must not stop the others. The
first attempt on the whole stack costs one flag read from the device; only a failure costs more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast and no TF32: TF32 would put 1e-3 relative error into convolution sketches."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
        allowed = matmul.allow_tf32, convolution.allow_tf32
        matmul.allow_tf32 = convolution.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32, convolution.allow_tf32 = allowed


def symmetrize(matrix: Tensor) -> Tensor:
    """The symmetric part, `[..., d, d]`."""
    return (matrix + matrix.mT) / 2


def all_finite(stack: Tensor) -> Tensor:
    """Which entries of a stack `[L, ...]` hold no inf or nan, as `[L]` bool; no host synchronisation."""
    return torch.linalg.vector_norm(stack.flatten(1), ord=torch.inf, dim=1).isfinite()


def select(ok: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where the layer is ok, else `old`; `ok: [L]`, the others `[L, ...]`."""
    return torch.where(ok.view(-1, *[1] * (new.dim() - 1)), new, old)


def damped_inverse(matrix: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """`(A + damping I)^{-1}` for a stack of positive semi-definite matrices, by the ladder of ALGORITHMS.md 10.

    Cholesky in the given precision; where that fails, eigenvalues in float64, clamped at 0: a covariance whose norm
    times epsilon exceeds the damping (massive activations) defeats any float32 factorisation.

    Args:
        matrix: `[L, p, p]`, symmetric up to rounding.
        damping: Added to every eigenvalue, > 0.

    Returns:
        The inverses `[L, p, p]` and `ok [L]`; where not ok, the entry is meaningless.
    """
    damped = symmetrize(matrix)
    damped.diagonal(dim1=-2, dim2=-1).add_(damping)
    triangle, info = torch.linalg.cholesky_ex(damped)
    inverse = torch.cholesky_inverse(triangle)
    ok = (info == 0) & all_finite(inverse)
    if not ok.all():
        inverse, ok = inverse.clone(), ok.clone()
        for index in torch.nonzero(~ok).flatten().tolist():
            inverse[index], ok[index] = _inverse_by_eigenvalues(matrix[index], damping)
    return inverse, ok


def _inverse_by_eigenvalues(matrix: Tensor, damping: float) -> tuple[Tensor, bool]:
    """One matrix's damped inverse from float64 eigenvalues clamped at 0."""
    if not matrix.isfinite().all():
        return matrix, False
    try:
        eigenvalues, basis = torch.linalg.eigh(symmetrize(matrix.double()))
    except torch.linalg.LinAlgError:
        return matrix, False
    inverse = (basis / (eigenvalues.clamp(min=0) + damping)) @ basis.mT
    return inverse.to(matrix.dtype), bool(inverse.isfinite().all())
