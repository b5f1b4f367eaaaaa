"""Eva: rank-one curvature from the means of inputs and output gradients (Zhang et al. 2023).

For each layer, with vectors in place of KFAC's matrices:

    m_a <- beta m_a + (1 - beta) (1/(B T)) sum_nt a       every tau_cov steps, both / (1 - beta^k) when read
    m_g <- beta m_g + (1 - beta) (1/B) sum_nt g
    D = (v v^T + rho I)^{-1} vec(G),  v = vec(m_g m_a^T)
      = (1/rho) [G - (m_g^T G m_a) / (|m_a|^2 |m_g|^2 + rho) m_g m_a^T]      every step
    D <- D min(1, sqrt(kappa / |sum over layers of lr^2 <D, G>|))              KL-clip; then momentum and decay as SGD

g is the gradient of an example's own loss. m_g is its mean over examples and its sum over positions, as in KFAC's
`reduce`: then v v^T has the scale of the Fisher matrix, and m_g is what a bias has for gradient. Nothing is inverted,
so there is no `inv_interval`. m_g is close to 0 where the loss is stationary; D then is G / rho, clipped.

Cost per step: N (p + o) / tau_cov + 5 o p operations; memory 2 (p + o) for each layer. The mean patch of a convolution
is taken from the sum of the images.

Options that follow the released code, and the choice of the default damping: `docs/algorithms.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from precond.algorithm import AveragedAlgorithm, Card, Curvature, LayerShape, Needs, Signals
from precond.hyperparameters import choice, fraction, optional, positive
from precond.parts import linalg
from precond.parts.factors import RankOne
from precond.parts.linalg import Outcome
from precond.parts.statistics import KroneckerStatistic


@dataclass
class EvaState:
    """A bank's m_a `[L, p]` and m_g `[L, o]`, and the rank-one inverse that they define."""

    statistic: KroneckerStatistic
    factor: RankOne


@dataclass(frozen=True, kw_only=True)
class Eva(AveragedAlgorithm[EvaState]):
    """Precondition with the damped inverse of a rank-one curvature.

    Attributes:
        damping: Added to the curvature before inverting.
        cov_interval: Steps between updates of the means and of the factor.
        kl_clip: Bound on lr^2 <D, G>, summed over the layers; None disables it.
        g_scale: Scale of m_g: that of the Fisher matrix, or that of the released code.
        ema_init: Start of the averages; `first` is not corrected for.
    """

    NUMERICS: ClassVar[int] = 1
    NEEDS: ClassVar[Needs] = Needs.BOTH
    CARD: ClassVar[Card | None] = Card(
        paper="Zhang et al., ICLR 2023",
        cost="N(p + o)/c + 5op",
        memory="2(p + o)",
        deviations="m_g of the examples' own gradients, not the batch mean's; the old value has the decay, the new the "
        "rest; the averages start at zero, corrected",
    )

    ema_decay: float = fraction(0.95, symbol="1 - xi")
    kl_clip: float | None = optional(positive(1e-3, symbol="kappa"))
    g_scale: str = choice("fisher", "official")
    ema_init: str = choice("zero", "first")

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> EvaState:
        """Return zero means, and P = I / damping."""
        size = len(layers), shape.d_out, shape.d_in
        factor = RankOne.identity(*size, self.damping, like)
        return EvaState(KroneckerStatistic.zeros(*size, like, axes=1), factor)

    def accumulate(self, state: EvaState, slots: slice, signals: Signals) -> None:
        """Add sums of a or of g."""
        if signals.inputs is not None:
            state.statistic.inputs.add(slots, signals.inputs.total(), signals.inputs.count)
        if signals.output_gradients is not None:
            g = signals.output_gradients
            examples, positions = g.shape[1:3]
            scale = positions if self.g_scale == "official" else 1
            state.statistic.add_outputs(slots, g.sum((1, 2)) / scale, examples, signals.backward)

    def commit(self, state: EvaState) -> None:
        """Update the moving averages."""
        power = 2 if self.g_scale == "official" else 1  # 1/B, with all examples of the step
        state.statistic.commit(
            self.ema_decay, copy_first=self.ema_init == "first", output_power=power
        )

    def refresh(self, state: EvaState) -> Outcome:
        """Scale the means."""
        u, v, ok = rank_one_factors(*state.statistic.means(), self.damping)
        state.factor.store(ok, u, v)
        return Outcome.of(ok)

    def curvature(self, state: EvaState) -> Curvature:
        """Return |v|^2, the only eigenvalue."""
        m_g, m_a = (mean.double().square().sum(1) for mean in state.statistic.means())
        return Curvature(top=m_g * m_a, damping=self.damping)


def rank_one_factors(m_g: Tensor, m_a: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return u, v with |u v^T| < 1 such that `(I - w w^T) / rho`, w = vec(u v^T), is Eva's inverse; and `ok [L]`.

    In float64, where the product of squared norms does not overflow.
    """
    (u, u_norm), (v, v_norm) = (_unit(vector.double()) for vector in (m_g, m_a))
    product = (u_norm * v_norm).square()
    u = u * (product / (product + damping)).sqrt()
    return u, v, linalg.all_finite(u) & linalg.all_finite(v)


def _unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return the direction `[L, d]` (0 for a zero vector) and the length `[L, 1]`."""
    norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return torch.where(norm > 0, vector / norm, 0), norm
