"""FOOF: fast first-order optimizer (Benzing 2022), in the form that NysAct approximates.

    A <- beta A + (1 - beta) A_t,   A_t = (1/N) sum a a^T     every tau_cov steps, over all rows of the batch
    P  = (A / (1 - beta^k) + rho I)^{-1}                      every tau_inv steps, the first at step 0
    D  = G P                                                  every step; then momentum and weight decay as SGD

Cost per step: 2 N p^2 / tau_cov + p^3 / tau_inv + 2 o p^2 operations; memory 2 p^2 for each layer.

Deviations of the NysAct authors' code from this, which is the default here. `init="identity"`: A starts at I and,
since their k counts layers instead of updates, is hardly corrected (not at all, here). `first_inverse="skip"`: P = I,
which is SGD, until step tau_inv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from precond.algorithm import Curvature, DampedAlgorithm, LayerShape, Signals
from precond.card import Card
from precond.hyperparameters import choice
from precond.parts import linalg
from precond.parts.factors import Dense
from precond.parts.statistics import Covariance


@dataclass
class ExactState:
    """A bank's covariance `[L, p, p]` and its damped inverse.

    `skip: [L]` bool marks the slots whose next refresh leaves P as it is.
    """

    statistic: Covariance
    factor: Dense
    skip: Tensor


@dataclass(frozen=True, kw_only=True)
class FOOF(DampedAlgorithm):
    """Precondition with the damped inverse of the input covariance (see the module).

    Attributes:
        init: Where the covariance starts; `identity` is never corrected for.
        first_inverse: Whether step 0 inverts, or leaves P = I until step `inv_interval`.
    """

    NUMERICS: ClassVar[int] = 1
    SHARED: ClassVar[tuple[str, ...]] = ("factor", "skip")
    CARD: ClassVar[Card | None] = Card(
        paper="Benzing, ICML 2022",
        cost="2Np^2/c + p^3/i + 2op^2",
        memory="2p^2",
        deviations="the covariance starts at zero, not at I; the first inverse is at step 0, not at step i",
    )

    init: str = choice("zero", "identity")
    first_inverse: str = choice("now", "skip")

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> ExactState:
        """Zero or identity covariance, P = I / damping or I."""
        state = exact_state(shape, len(layers), self.damping, like)
        eye = torch.eye(shape.d_in, dtype=like.dtype, device=like.device)
        if self.init == "identity":
            state.statistic.average.start_at_identity()
        if self.first_inverse == "skip":
            state.factor.inverse.copy_(eye)
            state.skip.fill_(True)
        return state

    def accumulate(self, state: ExactState, slots: slice, signals: Signals) -> None:
        """Add `X^T X`."""
        assert signals.inputs is not None
        state.statistic.add(slots, signals.inputs)

    def commit(self, state: ExactState) -> None:
        """Update the moving average."""
        state.statistic.average.commit(self.ema_decay)

    def refresh(self, state: ExactState) -> Tensor:
        """Invert."""
        return refresh_exact(state, self.damping)

    def curvature(self, state: ExactState) -> Curvature:
        """A."""
        return Curvature(inputs=state.statistic.average.mean())

    def precondition(self, state: ExactState, gradients: Tensor, lr: float) -> Tensor:
        """`G P`."""
        return state.factor.solve(gradients)


def exact_state(shape: LayerShape, num_layers: int, damping: float, like: Tensor) -> ExactState:
    """The state of FOOF, and of NysAct for layers no wider than the rank."""
    covariance = Covariance.zeros(num_layers, shape.d_in, like)
    factor = Dense.identity(num_layers, shape.d_in, damping, like)
    return ExactState(covariance, factor, skip=like.new_zeros(num_layers, dtype=torch.bool))


def refresh_exact(state: ExactState, damping: float) -> Tensor:
    """`P = (A + damping I)^{-1}`, except where this one is to be skipped; returns where it succeeded."""
    inverse, ok = linalg.damped_inverse(state.statistic.average.mean(), damping)
    state.factor.store(inverse, ok & ~state.skip)
    state.skip.fill_(False)
    return ok
