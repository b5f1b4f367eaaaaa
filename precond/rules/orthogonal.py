"""Orthogonal steps as in Muon (Jordan et al. 2024), along preconditioned directions.

For the weight of each preconditioned layer, as a matrix `[d_out, d_in]`:

    m <- momentum m + (1 - momentum) D
    u = (1 - momentum) D + momentum m    (without Nesterov momentum: u = m)
    w <- (1 - lr weight_decay) w - lr a O,  O = an approximation of U V^T, where u = U S V^T

O is computed from u by `ns_steps` Newton-Schulz steps. a depends only on the shape. Multiplying all
directions by the same number does not change the steps. The weight of a convolution is the matrix
`[out channels, in channels x kernel]`; a grouped convolution has one matrix for all groups.

All other parameters follow AdamW: the biases of layers along their directions, and the parameters
outside the layers along their gradients. As damping goes to infinity, D becomes G / damping, and the
rule becomes `torch.optim.Muon` with AdamW for the parameters that are not matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from precond.hyperparameters import (
    choice,
    count,
    flag,
    fraction,
    fractions,
    learning_rate,
    non_negative,
    positive,
)
from precond.rules.base import (
    Directed,
    ParameterState,
    Rule,
    adam_step,
    average,
    decay_weights,
    move,
    new_moments,
)

# Those of Muon. Five steps move all singular values above about 0.002 to about 0.7 to 1.2.
COEFFICIENTS = 3.4445, -4.7750, 2.0315


@dataclass(frozen=True, kw_only=True)
class OrthogonalRule(Rule):
    """Muon: replace the momentum of the directions of each weight by an orthogonal matrix.

    The biases of layers follow AdamW along their directions, and the parameters outside the layers
    along their gradients.

    Attributes:
        lr: Learning rate of the weights of layers.
        momentum: Weight of the old value in the average of the directions.
        nesterov: Use Nesterov momentum, as in `torch.optim.Muon`.
        weight_decay: Decoupled weight decay of all parameters.
        ns_steps: Number of Newton-Schulz steps.
        adjust_lr: Factor of the learning rate for a weight `[o, p]`: sqrt(max(1, o / p))
            (`original`), or 0.2 sqrt(max(o, p)), which makes the steps about as long as those of
            AdamW (`match_rms_adamw`).
        adam_lr: Learning rate of all other parameters. A scheduler of `lr`, or another `lr` of a
            group, scales it by the same factor.
        adam_betas: Weights of the old values in the averages of AdamW.
        adam_eps: The eps of AdamW.
    """

    COST: ClassVar[str] = "ns_steps (4opk + 2k^3), k = min(o, p)"
    MEMORY: ClassVar[str] = "none"

    lr: float | Tensor = learning_rate(0.02, symbol="eta")
    momentum: float = fraction(0.95, symbol="mu")
    nesterov: bool = flag(True)
    weight_decay: float = non_negative(0.1)
    ns_steps: int = count(5)
    adjust_lr: str = choice("original", "match_rms_adamw")
    adam_lr: float = non_negative(3e-4)
    adam_betas: tuple[float, float] = fractions((0.9, 0.95))
    adam_eps: float = positive(1e-8)

    def prepare(self, group: dict[str, Any]) -> None:
        """Store the learning rate for which `adam_lr` is not scaled."""
        lr = self.lr
        group.setdefault("base_lr", lr.clone() if isinstance(lr, Tensor) else lr)

    def new_buffers(
        self, group: Mapping[str, Any], parameter: Tensor, layer: bool
    ) -> dict[str, Tensor]:
        """Return the momentum of a matrix or the moments of AdamW (see `Rule.new_buffers`)."""
        if layer and parameter.dim() > 1:
            return {"momentum_buffer": torch.zeros_like(parameter)}
        return new_moments(parameter)

    def descend(
        self, group: dict[str, Any], layers: Directed, others: Directed, state: ParameterState
    ) -> None:
        """Update one parameter group in place (see `Rule.descend`)."""
        matrices: Directed = ([], [])
        rest: Directed = ([], [])
        for p, d in zip(layers[0] + others[0], layers[1] + others[1], strict=True):
            # A layer without statistics follows its gradient, but also has a momentum.
            target = matrices if "momentum_buffer" in state[p] else rest
            target[0].append(p)
            target[1].append(d)
        if matrices[0]:
            self._descend_matrices(group, *matrices, state)
        if rest[0]:
            lr = group["adam_lr"] * _scale(group)
            decay_weights(rest[0], lr, group["weight_decay"])
            betas, eps = group["adam_betas"], group["adam_eps"]
            adam_step(*rest, state, lr=lr, betas=betas, eps=eps)

    def _descend_matrices(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        directions: list[Tensor],
        state: ParameterState,
    ) -> None:
        """Update the weights of layers."""
        lr, momentum = group["lr"], group["momentum"]
        updates = average(params, directions, momentum, state)
        if group["nesterov"]:
            updates = list(torch._foreach_lerp(directions, updates, momentum))
        decay_weights(params, lr, group["weight_decay"])
        for p, update in zip(params, updates, strict=True):
            matrix = orthogonalised(update.flatten(1), group["ns_steps"])
            factor = _adjustment(group["adjust_lr"], *matrix.shape)
            move([p], [matrix.reshape(p.shape).to(p.dtype)], lr * factor)


def orthogonalised(
    matrix: Tensor,
    steps: int,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return a matrix with the same singular vectors, whose singular values are about 1.

    These are the Newton-Schulz steps of `torch.optim.Muon`: with X X^T = A for the smaller side,
    X <- a X + (b A + c A^2) X. The result is zero for a zero matrix.

    Args:
        matrix: `[o, p]`.
        steps: The number of steps.
        coefficients: a, b and c.
        dtype: The dtype of the steps. Default: bfloat16 as in Muon, or float64 if the matrix is in
            float64.
    """
    if dtype is None:
        dtype = torch.float64 if matrix.dtype == torch.float64 else torch.bfloat16
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if tall else matrix).to(dtype)
    # The singular values must be at most 1. The bound of the divisor avoids 0 / 0. It is so small
    # because directions can be very short.
    x = x / x.norm().clamp(min=torch.finfo(dtype).tiny)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _adjustment(kind: str, rows: int, columns: int) -> float:
    """Return the factor of the learning rate for a matrix of this shape."""
    if kind == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def _scale(group: Mapping[str, Any]) -> float | Tensor:
    """Return the learning rate relative to the one for which `adam_lr` is not scaled.

    If the latter is 0, the result is 0 if the learning rate is 0, else 1.
    """
    lr, base = group["lr"], group["base_lr"]
    if isinstance(lr, Tensor) or isinstance(base, Tensor):
        lr, base = torch.as_tensor(lr), torch.as_tensor(base).reshape(())
        return torch.where(base == 0, (lr != 0).to(base.dtype), lr / base)
    return lr / base if base else float(lr != 0)
