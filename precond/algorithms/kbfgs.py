"""K-BFGS and K-BFGS(L): Kronecker-factored quasi-Newton methods (Goldfarb, Ren, Bahamou 2020).

For each layer, H_g (x) H_a approximates the inverse Hessian, with eps = sqrt(rho):

    every step, with the means m_a of the inputs, m_h of the outputs and m_g of the output gradients:
        A <- beta A + (1 - beta) (1/(B T)) sum_nt a a^T
        first step:  H_a = (A + eps I)^{-1},  H_g = I
        D = H_g G H_a
        then momentum and weight decay as in SGD
    then, with the means m_h' and m_g' of the same batch at the new weights:
        s <- beta s + (1 - beta) (m_h - m_h'),   y <- beta y + (1 - beta) (m_g - m_g')
        (s, y) <- damped (s, y), so that s^T y >= 0.2 y^T H_g y, then s^T y >= eps s^T s
        H_g <- BFGS update of H_g with the damped s and y, unless s^T y <= 1e-4 s^T s |m_g|
        H_a <- BFGS update of H_a with s_a = H_a m_a and y_a = (A + eps I) s_a

m_a and m_h are means over examples and positions; m_g is a mean over examples of the gradient of
one example's loss, summed over positions. beta is 0.9. A is divided by 1 - beta^k after k updates
when it is read. The two kinds of damping and the BFGS update are in `parts/bfgs.py`. H_a needs no
damping, because s_a^T y_a >= eps s_a^T s_a. A layer that is called for the first time after the
first step starts at H_a = I / eps.

K-BFGS(L) stores the last `memory` damped pairs instead of H_g, and computes H_g from these pairs,
starting at I. As in the released code, H_a is a dense matrix in both methods.

Cost per step: a second forward and backward, and 2 N p^2 + 2 o p (o + p) + 10 (p^2 + o^2)
operations. Memory: 2 p^2 + o^2; K-BFGS(L) has 2 m o in place of o^2.

`docs/algorithms.md` defines the symbols and the deviations from the released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from precond.algorithm import Algorithm, Card, Curvature, LayerShape, Means, Needs, Signals
from precond.hyperparameters import count, fraction, positive_fraction
from precond.parts import bfgs, linalg
from precond.parts.bfgs import DenseBFGS, Inverse, LimitedBFGS
from precond.parts.factors import Factor
from precond.parts.linalg import Outcome
from precond.parts.statistics import MovingAverage

UNSUPPORTED = {
    "GradScaler": "it needs a closure, whose loss would not be scaled",
    "unscale_": "it needs a closure, whose loss would not be scaled",
}
_CARD = Card(
    paper="Goldfarb et al., NeurIPS 2020",
    cost="a second forward and backward + 2Np^2 + 2op(o + p) + 10(p^2 + o^2)",
    memory="2p^2 + o^2",
    deviations="A and H_a start from the first batch, not from a pass over the data; the momentum "
    "accumulates the directions, not the gradients; the weight decay is not preconditioned; "
    "the output gradients of convolutions are summed over the positions",
    unsupported=UNSUPPORTED,
)
_LIMITED_CARD = Card(
    paper=_CARD.paper,
    cost="a second forward and backward + 2Np^2 + 8mop + 2op^2 + 10p^2",
    memory="2p^2 + 2mo",
    deviations=_CARD.deviations,
    unsupported=UNSUPPORTED,
)


@dataclass
class Inverses(Factor):
    """The map P(G) = H_g G H_a.

    Attributes:
        outputs: H_g.
        inputs: H_a, `[L, p, p]`.
    """

    outputs: Inverse
    inputs: DenseBFGS

    def solve(self, gradients: Tensor, overwrite: bool = False) -> Tensor:
        """Return `H_g G H_a` for G `[L, o, p]`."""
        return self.outputs.apply(gradients) @ self.inputs.matrix


@dataclass
class KBFGSState:
    """The state of a bank.

    Attributes:
        statistic: A, `[L, p, p]`.
        s: Average difference of the outputs, `[L, o]`.
        y: Average difference of the output gradients, `[L, o]`.
        factor: H_g and H_a.
    """

    statistic: MovingAverage
    s: MovingAverage
    y: MovingAverage
    factor: Inverses


@dataclass(frozen=True, kw_only=True)
class KBFGS(Algorithm[KBFGSState]):
    """Precondition with BFGS approximations of the inverse Hessian's Kronecker factors.

    Attributes:
        damping: Its square root is added to the eigenvalues of the inputs' covariance, and is a
            lower bound on the curvature of the pairs that update the factor of the outputs.
        ema_decay: Weight of the old value in the averages of the covariance and of the pairs.
    """

    NUMERICS: ClassVar[int] = 1
    PER_GROUP: ClassVar[tuple[str, ...]] = ("damping",)
    NEEDS: ClassVar[Needs] = Needs.BOTH
    SECOND_PASS: ClassVar[bool] = True
    CARD: ClassVar[Card | None] = _CARD

    damping: float = positive_fraction(0.3, symbol="rho")
    ema_decay: float = fraction(0.9, symbol="beta")

    def statistics_due(self, step: int) -> bool:
        """Return True."""
        return True

    def refresh_due(self, step: int) -> bool:
        """Return False: a bank computes H_a once, when it has no factor."""
        return False

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> KBFGSState:
        """Return A = 0, H_a = I / sqrt(damping) and H_g = I."""
        length, o, p = len(layers), shape.d_out, shape.d_in
        inputs = DenseBFGS.identity(length, p, like)
        inputs.matrix /= self.damping**0.5
        return KBFGSState(
            statistic=MovingAverage.zeros(length, p, p, like=like),
            s=MovingAverage.zeros(length, o, like=like),
            y=MovingAverage.zeros(length, o, like=like),
            factor=Inverses(self._new_inverse(length, o, like), inputs),
        )

    def _new_inverse(self, length: int, width: int, like: Tensor) -> Inverse:
        """Return H_g = I."""
        return DenseBFGS.identity(length, width, like)

    def accumulate(self, state: KBFGSState, slots: slice, signals: Signals) -> None:
        """Add the sum of a a^T."""
        if signals.inputs is not None:
            state.statistic.add(slots, signals.inputs.gram(), signals.inputs.count)

    def commit(self, state: KBFGSState) -> None:
        """Update A."""
        state.statistic.commit(self.ema_decay)

    def refresh(self, state: KBFGSState) -> Outcome:
        """Compute H_a = (A + eps I)^{-1}, which is I / eps for layers that have no A yet."""
        inverse, outcome = linalg.damped_inverse(state.statistic.mean(), self.damping**0.5)
        matrix = state.factor.inputs.matrix
        matrix.copy_(linalg.select(outcome.ok, inverse, matrix))
        return outcome

    def precondition(
        self, state: KBFGSState, gradients: Tensor, lr: float, overwrite: bool = False
    ) -> Tensor:
        """Return `H_g G H_a`."""
        return state.factor.solve(gradients)

    def second_pass(self, state: KBFGSState, before: Means, after: Means) -> None:
        """Update H_g and H_a."""
        self._update_outputs(state, before, after)
        self._update_inputs(state, before)

    def _update_outputs(self, state: KBFGSState, before: Means, after: Means) -> None:
        """Update H_g with the damped averages of the differences."""
        s, y = before.outputs - after.outputs, before.output_gradients - after.output_gradients
        seen = before.seen & after.seen & linalg.all_finite(s) & linalg.all_finite(y)
        state.s.update(s, seen, self.ema_decay)
        state.y.update(y, seen, self.ema_decay)
        h_g = state.factor.outputs
        # Dividing s and y by the same number does not change the update, so their averages need
        # no bias correction.
        s, y = bfgs.double_damping(h_g, state.s.value, state.y.value, self.damping**0.5)
        norm = torch.linalg.vector_norm(before.output_gradients, dim=1)
        h_g.update(s, y, seen & bfgs.usable(s, y, norm))

    def _update_inputs(self, state: KBFGSState, before: Means) -> None:
        """Update H_a with the curvature A + eps I along H_a m_a."""
        h_a, m_a = state.factor.inputs, before.inputs
        s = h_a.apply(m_a.unsqueeze(2))
        y = (state.statistic.mean() @ s + self.damping**0.5 * s).squeeze(2)
        s = s.squeeze(2)
        norm = torch.linalg.vector_norm(m_a, dim=1)
        h_a.update(s, y, before.seen & bfgs.usable(s, y, norm))

    def curvature(self, state: KBFGSState) -> Curvature:
        """Return A."""
        return Curvature(inputs=state.statistic.mean(), damping=self.damping**0.5)


@dataclass(frozen=True, kw_only=True)
class KBFGSL(KBFGS):
    """K-BFGS with a limited memory for the factor of the outputs.

    Attributes:
        memory: Number of pairs from which the factor of the outputs is computed.
    """

    NUMERICS: ClassVar[int] = 1
    CARD: ClassVar[Card | None] = _LIMITED_CARD

    memory: int = count(100, symbol="m")

    def _new_inverse(self, length: int, width: int, like: Tensor) -> Inverse:
        """Return H_g = I, without pairs."""
        return LimitedBFGS.empty(length, self.memory, width, like)
