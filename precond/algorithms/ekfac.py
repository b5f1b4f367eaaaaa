"""EKFAC: eigenvalue-corrected Kronecker factorisation (George et al. 2018).

For each layer, EKFAC approximates the empirical Fisher matrix by a matrix that is diagonal in the
eigenbasis of KFAC's approximation. S `[o, p]` contains this diagonal:

    every n steps, starting with step 0, from the rows of that step:
        (1/B) sum_nt g g^T = U diag(l) U^T,   (1/(B T)) sum_nt a a^T = V diag(k) V^T
                                              (in float64, eigenvalues clamped at 0)
        S <- l k^T             (with this S, EKFAC is KFAC with `damping_rule="eigen"`)
    every step, with G_n = sum_t g a^T, the gradient of example n:
        per_example:  S <- beta S + (1 - beta) (1/B) sum_n (U^T G_n V)^.2
                      (the exact diagonal of the Fisher matrix in this basis)
        running:      S <- beta S + (1 - beta) B (U^T G V)^.2
                      (expectation: that diagonal + (B - 1) (mean gradient)^.2)
        D = U [(U^T G V) / (S + rho)] V^T     then momentum and weight decay as in SGD

g is the gradient of one example's loss, and X^.2 contains the squares of the entries of X. For the
bases, each position t counts as a separate row, as in KFAC with `sharing="expand"`. G_n is the sum
over all positions, and over all calls of a shared layer. For T = 1, the code does not form
U^T G_n V. Otherwise, it forms these matrices for chunks of the batch, by rotating either the rows
or the gradients of the examples, whichever is cheaper (`parts/pairs.py`). In the null space of a
covariance, which is not {0} if a batch has fewer rows than inputs, `parts/eigenbases.py` chooses a
reproducible basis, and components of U^T G V as small as rounding errors are set to 0.
"Losses" in `docs/algorithms.md` states for which losses S has the scale of the Fisher matrix.

Cost per step: [2 N (p^2 + o^2) + 9 (p^3 + o^3)] / n + 4 o p (o + p) operations; a singular
covariance adds 9 (p^3 + o^3) / n; per_example adds 2 N (p^2 + o^2) + 2 N o p. Memory:
p^2 + o^2 + o p + o + p per layer. In addition, every step keeps the inputs and output gradients of
all layers until its end. `running` needs them only in the steps that compute new bases; in all
other steps, it uses only the batch size.

`docs/algorithms.md` defines the symbols, lists the differences from the released code, and explains
the default damping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

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
from precond.hyperparameters import choice, count, fraction, positive
from precond.parts import linalg
from precond.parts.factors import KroneckerBasis
from precond.parts.linalg import Outcome
from precond.parts.pairs import Pairs
from precond.parts.statistics import KroneckerStatistic, MovingAverage, output_gram


@dataclass
class EKFACState:
    """The state of a bank: the bases U and V, and the average S `[L, o, p]` in these bases."""

    basis: KroneckerBasis
    statistic: MovingAverage
    _pairs: Pairs = field(default_factory=Pairs)
    # The covariances of this step's rows, and a mask of the slots in which they are finite.
    _covariances: KroneckerStatistic | None = None
    _fresh: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class EKFAC(Algorithm[EKFACState]):
    """Precondition with the damped inverse of a matrix that is diagonal in KFAC's eigenbasis.

    Attributes:
        damping: Added to the second moments S before dividing by them.
        basis_interval: Number of steps between computations of the eigenbases.
        second_moment: The squares that S averages over steps: the squared gradient of each example
            (`per_example`), or the batch size times the squared mean gradient (`running`). The
            latter uses the gradients of the parameters, which `grad_output_scale` does not change.
        ema_decay: Weight of the old value in the moving average S.
    """

    NUMERICS: ClassVar[int] = 2
    SHARED: ClassVar[tuple[str, ...]] = ("basis", "statistic")
    PER_GROUP: ClassVar[tuple[str, ...]] = ("damping",)
    NEEDS: ClassVar[Needs] = Needs.PAIRS
    CARD: ClassVar[Card | None] = Card(
        paper="George et al., NeurIPS 2018",
        cost="[2N(p^2+o^2) + 9(p^3+o^3)]/n + 4op(o+p); singular covariances: + 9(p^3+o^3)/n; "
        "per_example: + 2N(p^2+o^2) + 2Nop",
        memory="p^2+o^2+op+o+p",
        deviations="per-example second moments are averaged over steps (the `intra` mode of the "
        "released code uses only the current batch); the basis of a null space is reproducible, "
        "and rounding errors in it are set to 0; dilated and grouped convolutions are supported; the "
        "approximation SUA, which ignores correlations between the pixels of a patch, is not "
        "offered",
        unsupported=NO_UNSCALE,
    )

    damping: float = positive(3.0, symbol="rho")
    basis_interval: int = count(500, symbol="n")
    second_moment: str = choice("per_example", "running")
    ema_decay: float = fraction(0.9, symbol="beta")

    def statistics_due(self, step: int) -> bool:
        """Return True for every step."""
        return True

    def refresh_due(self, step: int) -> bool:
        """Return True every `basis_interval` steps."""
        return step % self.basis_interval == 0

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> EKFACState:
        """Return U = V = I, and S = 0."""
        size = len(layers), shape.d_out, shape.d_in
        return EKFACState(
            KroneckerBasis.identity(*size, like), MovingAverage.zeros(*size, like=like)
        )

    def accumulate(self, state: EKFACState, slots: slice, signals: Signals) -> None:
        """Keep the signals for `precondition`, because a refresh may change the bases first."""
        state._pairs.add(slots, *signals.pair(), signals.backward)

    def prepare(self, state: EKFACState) -> EKFACState:
        """Return the state with the covariances of this step's rows."""
        covariances = _zeros(state)
        for slots, uses in state._pairs.passes():
            for number, (rows, g) in enumerate(uses):
                covariances.inputs.add(slots, rows.gram(), rows.count)
                # All calls of a shared layer see the same examples: count them once.
                covariances.outputs.add(slots, output_gram(g), 0 if number else rows.examples)
        return replace(state, _covariances=covariances, _fresh=covariances.commit(0.0))

    def refresh(self, state: EKFACState) -> Outcome:
        """Compute new U, V and S in slots with finite covariances; keep the old ones elsewhere."""
        assert state._covariances is not None and state._fresh is not None
        s_values, a_values, ok = state.basis.update(*state._covariances.means(), state._fresh)
        moment, products = state.statistic, s_values.unsqueeze(-1) * a_values.unsqueeze(-2)
        moment.value.copy_(linalg.select(ok, products.to(moment.value.dtype), moment.value))
        moment.weight.masked_fill_(ok, 1)
        return Outcome.of(ok)

    def curvature(self, state: EKFACState) -> Curvature:
        """Return the covariances of the inputs and of the output gradients."""
        s, a = (state._covariances or _zeros(state)).means()
        return Curvature(inputs=a, outputs=s, damping=self.damping)

    def precondition(
        self, state: EKFACState, gradients: Tensor, lr: float, overwrite: bool = False
    ) -> Tensor:
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
    """Return covariances that contain no rows yet."""
    return KroneckerStatistic.zeros(*state.statistic.value.shape, like=state.statistic.value)
