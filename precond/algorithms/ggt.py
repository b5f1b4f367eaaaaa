"""GGT: the inverse square root of a window of gradients (Agarwal et al. 2019).

GGT is AdaGrad with a full matrix instead of a diagonal, restricted to the last w gradients. For each
tensor with n elements, G `[w, n]` contains its last w gradients as rows, the newest with the weight
1 and one of age k with the weight beta_2^(k/2):

    every step:
        G <- the gradient g of this step replaces the oldest row
        m <- mu m + g
        G G^T = V diag(l) V^T
        D = G^T V diag(l^(-3/2)) V^T G m       (= (G^T G)^(-1/2) m, with the pseudo-inverse)
        w <- (1 - lr decay) w - lr D

The sum is over the eigenvalues l > eps max(l). G^T G `[n, n]` is never formed. D does not change if
all gradients are multiplied by a number: it has the scale of a sum of unit vectors, as in AdaGrad
and Adam. Each tensor has a separate matrix, including biases and parameters outside of layers.

Cost per step: 6 w n operations per tensor, and 9 w^3 for the eigenvectors. Memory: w n + w^2.

`docs/algorithms.md` lists the differences from the paper and from the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    between,
    count,
    fraction,
    learning_rate,
    non_negative,
)
from precond.parts import linalg
from precond.windows import UNSUPPORTED, WindowOptimizer

NUMERICS = 1

CARD = Card(
    paper="Agarwal et al., ICML 2019",
    cost="6wD + 9w^3 per tensor, w = window",
    memory="wD + w^2 per tensor",
    deviations="small eigenvalues are dropped relative to the largest one, not below an absolute "
    "limit; learning rate 0.01 instead of 0.001; decoupled weight decay. As in the released code, "
    "each tensor has a matrix, and directions outside the span of the window are not used (in the "
    "paper, all parameters have one matrix)",
    unsupported=UNSUPPORTED,
)


@dataclass(frozen=True, kw_only=True)
class Settings(Hyperparameters):
    """Hyperparameters of GGT; parameter groups may override the first three.

    Attributes:
        lr: Learning rate.
        momentum: Momentum of the gradients, before they are preconditioned.
        weight_decay: Decoupled weight decay, as in AdamW.
        window: Number of gradients in the window.
        decay: Weight of a gradient's outer product relative to that of the next gradient; 1 weights
            all gradients of the window equally.
        eps: Eigenvalues of at most eps x the largest eigenvalue count as zero.
    """

    lr: float | Tensor = learning_rate(0.01)
    momentum: float = fraction(0.9, symbol="mu")
    weight_decay: float = non_negative(0.0)
    window: int = count(100, symbol="w")
    decay: float = between(1.0, 0, 1)
    eps: float = fraction(1e-4)


class GGT(WindowOptimizer):
    """The implementation of `precond.GGT`, which declares the explicit signature."""

    NAME = "GGT"
    SETTINGS = Settings
    FIXED: ClassVar[tuple[str, ...]] = ("window", "decay", "eps")

    def _add_buffers(self, parameter: Tensor) -> None:
        super()._add_buffers(parameter)
        self._gram(parameter, [parameter])

    def _directions(self, gradients: Mapping[Tensor, Tensor]) -> Mapping[Tensor, Tensor]:
        grams = {p: self._update_gram(p, [p]) for p in self._parameters()}
        weights = self._weights(len(next(iter(grams.values()))))
        roots = self._inverse_roots(torch.stack([grams[p] for p in gradients]), weights)
        for group in self.param_groups:
            for p in (p for p in group["params"] if p in gradients):
                self._momentum(p).mul_(group["momentum"]).add_(gradients[p])
        return {p: self._apply(p, root) for p, root in zip(gradients, roots, strict=True)}

    def _weights(self, count: int) -> list[float]:
        """Return the weight of each row, `decay^(age/2)`."""
        ages = [(self._slot - row) % self.settings.window for row in range(count)]
        return [self.settings.decay ** (age / 2) for age in ages]

    def _inverse_roots(self, grams: Tensor, weights: list[float]) -> Tensor:
        """Return `diag(v) V diag(l^(-3/2)) V^T diag(v)`, `[L, k, k]`, for the weights v of the rows.

        Args:
            grams: The products of the rows without weights, `[L, k, k]`.
            weights: The weights v.

        Returns:
            The matrices in float64.
        """
        v = torch.tensor(weights, dtype=torch.float64).to(grams.device, non_blocking=True)
        outer = v.unsqueeze(1) * v
        values, vectors, _ = linalg.eigh(linalg.symmetrize(outer * grams.double()))
        # Smaller eigenvalues are rounding errors of the products.
        eps = max(self.settings.eps, len(v) * torch.finfo(grams.dtype).eps)
        limit = eps * values[:, -1:].clamp(min=0)
        powers = torch.where(values > limit, values, torch.inf) ** -1.5
        return outer * ((vectors * powers.unsqueeze(1)) @ vectors.mT)

    def _apply(self, parameter: Tensor, root: Tensor) -> Tensor:
        """Return `G^T R G m` for rows G without weights, in the shape of the parameter."""
        dtype = self.state[parameter]["gram"].dtype
        rows, momentum = self._rows(parameter, dtype), self._momentum(parameter)
        coefficients = root @ (rows @ momentum.flatten().to(dtype)).double()
        return (rows.mT @ coefficients.to(dtype)).view_as(parameter)
