"""SKFAC: KFAC of one batch, inverted in the space of the examples (Tang et al. 2021).

For each layer, X `[B, p]` contains the inputs of the B examples of one batch, averaged over the
positions, and Y `[B, o]` contains the output gradients, summed over the positions:

    every tau_inv steps, starting with step 0, with l = sqrt(rho):
        P_A = (X^T X / B + l I)^{-1} = (1/l) [I - X^T (X X^T + B l I)^{-1} X]
        P_S = (Y^T Y / B + l I)^{-1} = (1/l) [I - Y^T (Y Y^T + B l I)^{-1} Y]
    every step:
        D = P_S G P_A
        KL-clip:  D <- D min(1, sqrt(kappa / |sum over layers of lr^2 <D, G>|))
        then momentum and weight decay as in SGD

The second form inverts a matrix of size B. It is used on each side with fewer rows than columns;
the first form is used on the others. SKFAC is KFAC with `sharing="reduce"`, without the moving
averages and with pi = 1. g is the gradient of one example's loss, so Y^T Y / B has the scale of the
Fisher matrix ("Losses" in `docs/algorithms.md`). The calls of a shared layer are additional rows of
the same examples.

Cost per step: [2 B^2 (p + o) + 2 B^3 + 2 B (p^2 + o^2)] / tau_inv + 2 o p (o + p) operations.
Memory: p^2 + o^2 per layer; in the steps of an inverse, also the inputs and output gradients of all
layers until the end of the step.

`docs/algorithms.md` defines the symbols and explains the default damping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from precond.algorithm import (
    NO_UNSCALE,
    Algorithm,
    Card,
    Curvature,
    LayerShape,
    Needs,
    Signals,
)
from precond.hyperparameters import choice, count, optional, positive
from precond.parts import linalg
from precond.parts.batches import Batch, LastBatch, batches_of
from precond.parts.factors import Kronecker
from precond.parts.linalg import Outcome
from precond.parts.pairs import Pairs


@dataclass
class SKFACState:
    """The state of a bank: P_S and P_A, and the number of examples of their batch."""

    statistic: LastBatch
    factor: Kronecker
    _pairs: Pairs = field(default_factory=Pairs)
    # X and Y of this step, from all ranks.
    _inputs: Batch | None = None
    _outputs: Batch | None = None
    _fresh: Tensor | None = None  # mask of the slots with new and finite rows


@dataclass(frozen=True, kw_only=True)
class SKFAC(Algorithm[SKFACState]):
    """Precondition with the damped inverses of the Kronecker factors of one batch.

    Attributes:
        damping: Its square root is added to the eigenvalues of both factors before inverting.
        inv_interval: Number of steps between computations of the inverses.
        kl_clip: Bound of the KL-clip: if q, the absolute value of the sum of lr^2 <direction,
            gradient> over the layers, exceeds the bound, multiply all directions by
            sqrt(bound / q). None disables the clip.
        g_scale: Output gradients in their factor: those of each example's loss, summed over
            positions (`fisher`, the scale of the Fisher matrix), or those of the batch's mean loss,
            averaged over positions (`official`).
    """

    NUMERICS: ClassVar[int] = 1
    SHARED: ClassVar[tuple[str, ...]] = ("factor",)
    PER_GROUP: ClassVar[tuple[str, ...]] = ("damping",)
    NEEDS: ClassVar[Needs] = Needs.PAIRS
    CARD: ClassVar[Card | None] = Card(
        paper="Tang et al., CVPR 2021",
        cost="[2B^2(p + o) + 2B^3 + 2B(p^2 + o^2)]/i + 2op(o + p), B = examples",
        memory="p^2 + o^2",
        deviations="output gradients are those of each example's loss, summed over the positions, "
        "not those of the batch's mean loss, averaged over the positions; the inverses are stored "
        "as dense matrices; a side with at most as many columns as rows is inverted directly; KL-clip",
        unsupported=NO_UNSCALE,
    )

    damping: float = positive(1.0, symbol="rho")
    inv_interval: int = count(50, symbol="tau_inv")
    kl_clip: float | None = optional(positive(1e-3, symbol="kappa"))
    g_scale: str = choice("fisher", "official")

    def statistics_due(self, step: int) -> bool:
        """Return True every `inv_interval` steps."""
        return step % self.inv_interval == 0

    def refresh_due(self, step: int) -> bool:
        """Return True every `inv_interval` steps."""
        return self.statistics_due(step)

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> SKFACState:
        """Return P = I / damping."""
        size = len(layers), shape.d_out, shape.d_in
        return SKFACState(
            LastBatch.empty(len(layers), like), Kronecker.identity(*size, self.damping, like)
        )

    def accumulate(self, state: SKFACState, slots: slice, signals: Signals) -> None:
        """Keep the signals until `prepare`, because the batch may have several backwards."""
        state._pairs.add(slots, *signals.pair(), signals.backward)

    def prepare(self, state: SKFACState) -> SKFACState:
        """Return the state with X and Y of this step, from all ranks."""
        official = self.g_scale == "official"
        sides = state.factor.input_inverse, state.factor.output_inverse
        inputs, outputs = batches_of(state._pairs, *sides, average_outputs=official)
        state._pairs.clear()
        if official:
            outputs = outputs.divided_by_examples()
        fresh = state.statistic.update(inputs, outputs)
        return replace(state, _inputs=inputs, _outputs=outputs, _fresh=fresh)

    def refresh(self, state: SKFACState) -> Outcome:
        """Compute P_S and P_A, in slots with finite rows; keep the old ones elsewhere."""
        assert state._inputs is not None and state._outputs is not None
        assert state._fresh is not None
        batches = state._outputs.where(state._fresh), state._inputs.where(state._fresh)
        (p_s, (s_ok, s_retried)), (p_a, (a_ok, a_retried)) = inverse_covariances(
            *batches, damping=self.damping**0.5
        )
        ok = state._fresh & s_ok & a_ok
        state.factor.store(ok, p_s, p_a)
        return Outcome(ok, s_retried | a_retried)

    def precondition(
        self, state: SKFACState, gradients: Tensor, lr: float, overwrite: bool = False
    ) -> Tensor:
        """Return `P_S G P_A`."""
        return state.factor.solve(gradients, overwrite)

    def curvature(self, state: SKFACState) -> Curvature:
        """Return X^T X / B and Y^T Y / B; zero before the first step."""
        if state._inputs is None or state._outputs is None:
            zeros = map(torch.zeros_like, (state.factor.input_inverse, state.factor.output_inverse))
            return Curvature(*zeros, damping=self.damping)
        covariances = state._inputs.covariance(), state._outputs.covariance()
        return Curvature(*covariances, damping=self.damping)


def inverse_covariances(*batches: Batch, damping: float) -> list[tuple[Tensor, Outcome]]:
    """Return `(X^T X / B + damping I)^{-1}`, `[L, d, d]`, and the outcome for each batch.

    The smaller one of X X^T and X^T X is inverted, in float64, because the identity minus a
    projection loses digits. The host reads one flag for all batches.
    """
    rows = [batch.rows.double() for batch in batches]
    few = [x.shape[1] < x.shape[2] for x in rows]
    counts = [batch.examples.clamp(min=1).double() for batch in batches]
    grams = [x @ x.mT if fewer else x.mT @ x for x, fewer in zip(rows, few, strict=True)]
    results = linalg.damped_inverses(
        *((gram, damping * examples) for gram, examples in zip(grams, counts, strict=True))
    )
    inverses = []
    for (kernel, outcome), x, examples, fewer in zip(results, rows, counts, few, strict=True):
        if fewer:
            eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
            inverse = (eye - x.mT @ kernel @ x) / damping
        else:
            inverse = linalg.per_layer(examples, kernel) * kernel
        inverses.append((inverse, outcome))
    return inverses
