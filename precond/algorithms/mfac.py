"""M-FAC: the inverse of a Fisher matrix from the last gradients (Frantar et al. 2021).

The gradient g of a step is that of all D parameters together, and G `[w, D]` contains the last w of
these gradients as rows, with the current one:

    every step:
        G <- g replaces the oldest row; the rows of steps before the first one are zero
        F = rho I + G^T G / w
        D = F^{-1} g
        v <- mu v + (1 - mu) D
        w <- (1 - lr decay) w - lr v

F is never formed. Since g is the row number j of G, the Woodbury identity gives

    D = w G^T (w rho I + G G^T)^{-1} e_j

with the j-th unit vector e_j, without the cancellation of (g - ...) / rho. The matrix G G^T is a sum
over all parameters. A matrix for each layer would be another method.

Cost per step: 4 w D + w^3 operations. Memory: w D + w^2; the window alone has w times the size of
the model.

`docs/algorithms.md` lists the differences from the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from precond.algorithm import Card
from precond.hyperparameters import (
    Hyperparameters,
    count,
    fraction,
    learning_rate,
    non_negative,
    positive,
)
from precond.parts import linalg
from precond.windows import UNSUPPORTED, WindowOptimizer

NUMERICS = 1

CARD = Card(
    paper="Frantar, Kurtic and Alistarh, NeurIPS 2021",
    cost="4wD + w^3, w = window",
    memory="wD + w^2",
    deviations="momentum 0.9 instead of 0; the weight decay is decoupled, neither preconditioned nor "
    "part of the rows; the products of the rows are factored in float64",
    unsupported=UNSUPPORTED,
)


@dataclass(frozen=True, kw_only=True)
class Settings(Hyperparameters):
    """Hyperparameters of M-FAC; parameter groups may override the first three.

    Attributes:
        lr: Learning rate.
        momentum: Weight of the old value in the moving average of the directions.
        weight_decay: Decoupled weight decay, as in AdamW.
        window: Number of gradients in the window.
        damping: Added to every eigenvalue of the Fisher matrix before inverting.
    """

    lr: float | Tensor = learning_rate(1e-3)
    momentum: float = fraction(0.9, symbol="mu")
    weight_decay: float = non_negative(0.0)
    window: int = count(1024, symbol="w")
    damping: float = positive(1e-5, symbol="rho")


class MFAC(WindowOptimizer):
    """The implementation of `precond.MFAC`, which declares the explicit signature."""

    NAME = "MFAC"
    SETTINGS = Settings
    FIXED: ClassVar[tuple[str, ...]] = ("window", "damping")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters. The first parameter has the matrix of all parameters, `[w, w]`."""
        super().add_param_group(param_group)
        if parameters := self._parameters():
            self._gram(parameters[0], parameters)

    def _directions(self, gradients: Mapping[Tensor, Tensor]) -> Mapping[Tensor, Tensor]:
        parameters, window = self._parameters(), self.settings.window
        gram = self._update_gram(parameters[0], parameters)
        inverse, _ = linalg.damped_inverse(gram.double()[None], window * self.settings.damping)
        column = window * inverse[0, :, self._slot]
        for group in self.param_groups:
            for p in (p for p in group["params"] if p in gradients):
                rows = self._rows(p, gram.dtype)
                direction = (rows.mT @ column.to(gram.dtype)).view_as(p).to(p.dtype)
                self._momentum(p).lerp_(direction, 1 - group["momentum"])
        return {p: self._momentum(p) for p in gradients}
