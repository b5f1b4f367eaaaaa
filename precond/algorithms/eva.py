"""Eva: rank-one curvature from the means of inputs and output gradients (Zhang et al. 2023).

For each layer, Eva uses vectors in place of KFAC's matrices:

    every tau_cov steps, with k updates so far (m_a and m_g are divided by 1 - beta^k when read):
        m_a <- beta m_a + (1 - beta) (1/(B T)) sum_nt a
        m_g <- beta m_g + (1 - beta) (1/B) sum_nt g
    every step:
        D = (v v^T + rho I)^{-1} vec(G),  v = vec(m_g m_a^T)
          = (1/rho) [G - (m_g^T G m_a) / (|m_a|^2 |m_g|^2 + rho) m_g m_a^T]
        KL-clip:  D <- D min(1, sqrt(kappa / |sum over layers of lr^2 <D, G>|))
        then momentum and weight decay as in SGD

g is the gradient of one example's loss. For m_g, g is summed over the positions and averaged over
the examples, as in KFAC with `sharing="reduce"`. Therefore v v^T has the scale of the Fisher
matrix, and without the moving average, m_g is the gradient of the bias. No matrix is inverted, so
there is no `inv_interval`. Near a stationary point of the loss, m_g is close to 0, and D is close
to G / rho before the clip.
"Losses" in `docs/algorithms.md` states for which losses v v^T has the scale of the Fisher matrix.

Cost per step: N (p + o) / tau_cov + 5 o p operations. Memory: 2 (p + o) per layer. For a
convolution, m_a is computed from the patches of the sum of the images.

`docs/algorithms.md` defines the symbols, describes the options that follow the released code, and
explains the default damping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from precond.algorithm import (
    NO_UNSCALE,
    Card,
    Curvature,
    LayerShape,
    Needs,
    Signals,
)
from precond.averaged import AveragedAlgorithm
from precond.hyperparameters import choice, fraction, optional, positive
from precond.parts import linalg
from precond.parts.factors import RankOne
from precond.parts.linalg import Outcome
from precond.parts.statistics import KroneckerStatistic


@dataclass
class EvaState:
    """The state of a bank: m_a `[L, p]` and m_g `[L, o]`, and the inverse computed from them."""

    statistic: KroneckerStatistic
    factor: RankOne


@dataclass(frozen=True, kw_only=True)
class Eva(AveragedAlgorithm[EvaState]):
    """Precondition with the damped inverse of a rank-one curvature.

    Attributes:
        damping: Added to every eigenvalue of the curvature before inverting.
        cov_interval: Number of steps between updates of the means and of the preconditioner.
        kl_clip: Bound of the KL-clip: if q, the absolute value of the sum of lr^2 <direction,
            gradient> over the layers, exceeds the bound, multiply all directions by
            sqrt(bound / q). None disables the clip.
        g_scale: Output gradients in the mean: those of each example's loss, summed over positions
            (`fisher`, the scale of the Fisher matrix), or those of the batch's mean loss, averaged
            over positions (`official`, as in the released code).
        ema_init: Initial value of the averages: 0, with bias correction (`zero`), or the value of
            the first update, without bias correction (`first`).
    """

    NUMERICS: ClassVar[int] = 1
    NEEDS: ClassVar[Needs] = Needs.BOTH
    CARD: ClassVar[Card | None] = Card(
        paper="Zhang et al., ICLR 2023",
        cost="N(p + o)/c + 5op",
        memory="2(p + o)",
        deviations="output gradients are those of each example's loss, not of the batch's mean "
        "loss; ema_decay is the weight of the old value, not of the new value; the averages start "
        "at zero, with bias correction",
        unsupported=NO_UNSCALE,
    )

    ema_decay: float = fraction(0.95, symbol="1 - xi")
    kl_clip: float | None = optional(positive(1e-3, symbol="kappa"))
    g_scale: str = choice("fisher", "official")
    ema_init: str = choice("zero", "first")

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> EvaState:
        """Return means of zero, and P = I / damping."""
        size = len(layers), shape.d_out, shape.d_in
        factor = RankOne.identity(*size, self.damping, like)
        return EvaState(KroneckerStatistic.zeros(*size, like, axes=1), factor)

    def accumulate(self, state: EvaState, slots: slice, signals: Signals) -> None:
        """Add the sum of a or the sum of g, whichever the signals contain."""
        if signals.inputs is not None:
            state.statistic.inputs.add(slots, signals.inputs.total(), signals.inputs.count)
        if signals.output_gradients is not None:
            g = signals.output_gradients
            examples, positions = g.shape[1:3]
            scale = positions if self.g_scale == "official" else 1
            state.statistic.add_outputs(slots, g.sum((1, 2)) / scale, examples, signals.backward)

    def commit(self, state: EvaState) -> None:
        """Update the moving averages."""
        # `official` divides by B once more. The B of the whole step is not known before `commit`.
        power = 2 if self.g_scale == "official" else 1
        state.statistic.commit(
            self.ema_decay, copy_first=self.ema_init == "first", output_power=power
        )

    def refresh(self, state: EvaState) -> Outcome:
        """Compute the vectors of the rank-one inverse from the means."""
        u, v, ok = rank_one_factors(*state.statistic.means(), self.damping)
        state.factor.store(ok, u, v)
        return Outcome.of(ok)

    def curvature(self, state: EvaState) -> Curvature:
        """Return |v|^2, the only non-zero eigenvalue of v v^T."""
        m_g, m_a = (mean.double().square().sum(1) for mean in state.statistic.means())
        return Curvature(top=m_g * m_a, damping=self.damping)


def rank_one_factors(m_g: Tensor, m_a: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors u and v, and a mask `ok [L]` of the layers in which they are finite.

    Eva's inverse is `(I - w w^T) / rho` with w = vec(u v^T) and |w| < 1. The computation is in
    float64, in which the product of the squared norms does not overflow.
    """
    (u, u_norm), (v, v_norm) = (_unit(vector.double()) for vector in (m_g, m_a))
    product = (u_norm * v_norm).square()
    u = u * (product / (product + damping)).sqrt()
    return u, v, linalg.all_finite(u) & linalg.all_finite(v)


def _unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors `[L, d]` (0 for a zero vector) and the lengths `[L, 1]`."""
    norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return torch.where(norm > 0, vector / norm, 0), norm
