"""FOOF: fast first-order optimizer (Benzing 2022), in the form that NysAct approximates.

For each layer, with its N input rows a, its gradient G and k updates of A so far:

    every tau_cov steps:                        A <- beta A + (1 - beta) (1/N) sum a a^T
    every tau_inv steps, starting with step 0:  P = (A / (1 - beta^k) + rho I)^{-1}
    every step:                                 D = G P
                                                then momentum and weight decay as in SGD

Cost per step: 2 N p^2 / tau_cov + p^3 / tau_inv + 2 o p^2 operations. Memory: 2 p^2 per layer.

`docs/algorithms.md` defines the symbols and describes the options that follow the released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from precond.algorithm import Card, Curvature, LayerShape, Signals
from precond.averaged import DampedAlgorithm
from precond.hyperparameters import choice
from precond.parts import linalg
from precond.parts.factors import Dense
from precond.parts.linalg import Outcome
from precond.parts.statistics import MovingAverage


@dataclass
class Covariance:
    """The input covariance A = (1/N) sum a a^T, averaged over steps, `[L, p, p]`."""

    average: MovingAverage


@dataclass
class ExactState:
    """The state of a bank: the covariance `[L, p, p]` and its damped inverse.

    `skip: [L]` (bool) marks the slots in which the next refresh does not change P.
    """

    statistic: Covariance
    factor: Dense
    skip: Tensor


@dataclass(frozen=True, kw_only=True)
class FOOF(DampedAlgorithm[ExactState]):
    """Precondition with the damped inverse of the input covariance.

    Attributes:
        init: Initial value of the covariance: 0, with bias correction (`zero`), or the identity
            matrix, without bias correction (`identity`).
        first_inverse: When to compute the first inverse: at step 0 (`now`), or at step
            `inv_interval`, with unpreconditioned SGD until then (`skip`).
    """

    NUMERICS: ClassVar[int] = 1
    SHARED: ClassVar[tuple[str, ...]] = ("factor", "skip")
    CARD: ClassVar[Card | None] = Card(
        paper="Benzing, ICML 2022",
        cost="2Np^2/c + p^3/i + 2op^2",
        memory="2p^2",
        deviations="the covariance starts at zero, not at I; the first inverse is computed at step "
        "0, not at step inv_interval",
    )

    init: str = choice("zero", "identity")
    first_inverse: str = choice("now", "skip")

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> ExactState:
        """Return the initial covariance, and P = I / damping (P = I with `skip`)."""
        num_layers, skip = len(layers), self.first_inverse == "skip"
        average = MovingAverage.zeros(num_layers, shape.d_in, shape.d_in, like=like)
        if self.init == "identity":
            average.start_at_identity()
        factor = Dense.identity(num_layers, shape.d_in, 1.0 if skip else self.damping, like)
        return ExactState(
            Covariance(average), factor, skip=torch.full_like(average.dropped, skip).bool()
        )

    def accumulate(self, state: ExactState, slots: slice, signals: Signals) -> None:
        """Add `X^T X`."""
        assert signals.inputs is not None
        state.statistic.average.add(slots, signals.inputs.gram(), signals.inputs.count)

    def commit(self, state: ExactState) -> None:
        """Update the moving average."""
        state.statistic.average.commit(self.ema_decay)

    def refresh(self, state: ExactState) -> Outcome:
        """Compute `P = (A + damping I)^{-1}`, except in the slots marked by `skip`."""
        inverse, outcome = linalg.damped_inverse(state.statistic.average.mean(), self.damping)
        state.factor.store(outcome.ok & ~state.skip, inverse)
        state.skip.fill_(False)
        return outcome

    def curvature(self, state: ExactState) -> Curvature:
        """Return A."""
        return Curvature(inputs=state.statistic.average.mean(), damping=self.damping)
