"""EKFAC: eigenvalue-corrected Kronecker factorisation (George et al. 2018).

For each layer, with the empirical Fisher matrix approximated by a diagonal S in the eigenbasis of KFAC's:

    every n steps, the first at step 0, from the rows of that step:
        (1/B) sum_nt g g^T = U diag(l) U^T,   (1/(B T)) sum_nt a a^T = V diag(k) V^T      (float64, clamped at 0)
        S <- l k^T                                                                        (then it is KFAC)
    every step, with G_n = sum_t g a^T the gradient of example n:
        per_example:  S <- beta S + (1 - beta) (1/B) sum_n (U^T G_n V)^.2                 (the exact diagonal)
        running:      S <- beta S + (1 - beta) B (U^T G V)^.2                             (E = Fisher + (B - 1) mean^2)
    D = U [(U^T G V) / (S + rho)] V^T                                   every step; then momentum and decay as SGD

g is the gradient of an example's own loss. Positions are expanded (KFC for convolutions) in the basis, and summed in
G_n, with the calls of a shared layer. U^T G_n V is never formed without positions, and in chunks of the batch with
them, from rotated rows or from rotated gradients, whichever costs less (`pairs.py`).

Cost per step: [2 N (p^2 + o^2) + 9 (p^3 + o^3)] / n + 4 o p (o + p) operations; per_example adds 2 N (p^2 + o^2)
+ 2 N o p, and without positions 2 B o p instead of 2 N o p. Memory p^2 + o^2 + o p for each layer, and, from each
backward to the end of its step, the layers' inputs and output gradients ("running" needs them on the steps that make a
basis, and the batch size on all).

Differences from the released code, and the choice of the default damping: `docs/algorithms.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from precond.algorithm import Algorithm, Card, Curvature, LayerShape, Needs, Signals
from precond.hyperparameters import choice, count, fraction, positive
from precond.parts import linalg
from precond.parts.factors import KroneckerBasis
from precond.parts.linalg import Outcome
from precond.parts.pairs import Pairs
from precond.parts.statistics import KroneckerStatistic, MovingAverage, output_gram


@dataclass
class EKFACState:
    """A bank's U and V, and S `[L, o, p]` in that basis."""

    basis: KroneckerBasis
    statistic: MovingAverage
    _pairs: Pairs = field(default_factory=Pairs)
    # The covariances of this step's rows, and the slots for which they exist and are finite.
    _covariances: KroneckerStatistic | None = None
    _fresh: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class EKFAC(Algorithm[EKFACState]):
    """Precondition with the damped inverse of a diagonal in KFAC's eigenbasis.

    Attributes:
        damping: Added to S before inverting.
        basis_interval: Steps between new bases.
        second_moment: S averages the squared gradient of each example, or B times the square of their mean.
        ema_decay: Weight of the old value in S.
    """

    NUMERICS: ClassVar[int] = 1
    SHARED: ClassVar[tuple[str, ...]] = ("basis", "statistic")
    NEEDS: ClassVar[Needs] = Needs.PAIRS
    CARD: ClassVar[Card | None] = Card(
        paper="George et al., NeurIPS 2018",
        cost="[2N(p^2+o^2) + 9(p^3+o^3)]/n + 4op(o+p); per_example: + 2N(p^2+o^2) + 2Nop",
        memory="p^2+o^2+op",
        deviations="per-example moments are averaged over steps (released intra: the batch alone); dilation and groups "
        "respected; no SUA",
    )

    damping: float = positive(3.0, symbol="rho")
    basis_interval: int = count(500, symbol="n")
    second_moment: str = choice("per_example", "running")
    ema_decay: float = fraction(0.9, symbol="beta")

    def statistics_due(self, step: int) -> bool:
        """Return True: every step."""
        return True

    def refresh_due(self, step: int) -> bool:
        """Return True every `basis_interval` steps."""
        return step % self.basis_interval == 0

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> EKFACState:
        """Return U = V = I, without a second moment."""
        size = len(layers), shape.d_out, shape.d_in
        return EKFACState(
            KroneckerBasis.identity(*size, like), MovingAverage.zeros(*size, like=like)
        )

    def accumulate(self, state: EKFACState, slots: slice, signals: Signals) -> None:
        """Keep inputs and output gradients until `precondition`, which may come after a new basis."""
        state._pairs.add(slots, *signals.pair(), signals.backward)

    def prepare(self, state: EKFACState) -> EKFACState:
        """Return the state with the covariances of this step's rows."""
        covariances = _zeros(state)
        for slots, uses in state._pairs.passes():
            for number, (rows, g) in enumerate(uses):
                covariances.inputs.add(slots, rows.gram(), rows.count)
                # Each call of a shared layer brings the same examples.
                covariances.outputs.add(slots, output_gram(g), 0 if number else rows.examples)
        return replace(state, _covariances=covariances, _fresh=covariances.commit(0.0))

    def refresh(self, state: EKFACState) -> Outcome:
        """Compute new U, V and S where this step's rows allow it."""
        assert state._covariances is not None and state._fresh is not None
        (s_values, u, s_ok), (a_values, v, a_ok) = map(
            linalg.eigenbasis, state._covariances.means()
        )
        ok = s_ok & a_ok & state._fresh
        state.basis.store(ok, u, v)
        moment, products = state.statistic, s_values.unsqueeze(-1) * a_values.unsqueeze(-2)
        moment.value.copy_(linalg.select(ok, products.to(moment.value.dtype), moment.value))
        moment.weight.masked_fill_(ok, 1)
        return Outcome.of(ok)

    def curvature(self, state: EKFACState) -> Curvature:
        """Return A and S_G."""
        s, a = (state._covariances or _zeros(state)).means()
        return Curvature(inputs=a, outputs=s, damping=self.damping)

    def precondition(self, state: EKFACState, gradients: Tensor, lr: float) -> Tensor:
        """Update S, and return `U [(U^T G V) / (S + rho)] V^T`."""
        rotated = state.basis.rotate(gradients)
        with linalg.exact_arithmetic(gradients.device):
            if self.second_moment == "per_example":
                for slots, total, examples in state._pairs.second_moments(state.basis):
                    state.statistic.add(slots, total, examples)
                state.statistic.commit(self.ema_decay)
            else:
                sizes = state._pairs.batch_sizes(like=state.statistic.value)
                fresh = linalg.per_layer(sizes, rotated) * rotated.square()
                seen = sizes > 0
                state.statistic.update(
                    linalg.select(seen, fresh, state.statistic.value), seen, self.ema_decay
                )
        state._pairs.clear()
        return state.basis.restore(rotated / (state.statistic.mean() + self.damping))


def _zeros(state: EKFACState) -> KroneckerStatistic:
    """Return covariances without rows."""
    return KroneckerStatistic.zeros(*state.statistic.value.shape, like=state.statistic.value)
