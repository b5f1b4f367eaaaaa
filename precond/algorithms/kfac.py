"""KFAC: Kronecker-factored curvature (Martens and Grosse 2015, Grosse and Martens 2016).

For each layer, KFAC approximates the empirical Fisher matrix, whose gradients use the labels of the
data, by the Kronecker product S (x) A:

    every tau_cov steps, with k updates so far (A and S are divided by 1 - beta^k when read):
        A <- beta A + (1 - beta) A_t,            S <- beta S + (1 - beta) S_t
        expand:  A_t = (1/(B T)) sum_nt a a^T,   S_t = (1/B) sum_nt g g^T
        reduce:  A_t = (1/B) sum_n a_n a_n^T,    S_t = (1/B) sum_n g_n g_n^T
                 with a_n = mean_t a and g_n = sum_t g
    every tau_inv steps, starting with step 0:
        factored:  P_S = (S + sqrt(rho)/pi I)^{-1},  P_A = (A + pi sqrt(rho) I)^{-1}
                   with pi^2 = (tr A / p) / (tr S / o)
        eigen:     S = U diag(s) U^T,  A = V diag(a) V^T   (in float64, eigenvalues clamped at 0)
    every step:
        factored:  D = P_S G P_A
        eigen:     D = U [(U^T G V) / (s a^T + rho)] V^T   (exactly (S (x) A + rho I)^{-1} vec(G))
        KL-clip:   D <- D min(1, sqrt(kappa / |sum over layers of lr^2 <D, G>|))
        then momentum and weight decay as in SGD

g is the gradient of one example's loss, so S has the scale of the Fisher matrix if the loss is the
mean over the examples of a negative log-likelihood ("Losses" in `docs/algorithms.md`). For
convolutions, `expand` is the method KFC (Grosse and Martens 2016). `expand` and `reduce`
(Eschenhagen et al. 2023) are equal for T = 1. The calls of a shared layer count as additional
positions, over which `reduce` neither averages nor sums. pi is clamped to [1e-4, 1e4], and is 1 if
a trace is 0; the released code only bounds it by 1e10.

Cost per step: 2 N (p^2 + o^2) / tau_cov + (p^3 + o^3) / tau_inv + 2 o p (o + p) operations. For
`eigen`, the second term is 9 times and the third term twice as large. Memory: 2 (p^2 + o^2) per
layer; `eigen` adds o p.

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
from precond.averaged import DampedAlgorithm
from precond.hyperparameters import choice, optional, positive
from precond.parts import linalg
from precond.parts.factors import Kronecker, KroneckerEigen
from precond.parts.linalg import Outcome
from precond.parts.rows import Rows
from precond.parts.statistics import KroneckerStatistic, output_gram

PI_RANGE = (1e-4, 1e4)


@dataclass
class KFACState:
    """The state of a bank: A `[L, p, p]` and S `[L, o, o]`, and their inverses or eigenbases."""

    statistic: KroneckerStatistic
    factor: Kronecker | KroneckerEigen


@dataclass(frozen=True, kw_only=True)
class KFAC(DampedAlgorithm[KFACState]):
    """Precondition with the damped inverse of S (x) A.

    Attributes:
        damping: Added to the eigenvalues of the curvature before inverting; see `damping_rule`.
        damping_rule: Add multiples of sqrt(damping) to the covariances of the inputs and of the
            output gradients (`factored`), or add `damping` to their Kronecker product (`eigen`).
        kl_clip: Bound of the KL-clip: if q, the absolute value of the sum of lr^2 <direction,
            gradient> over the layers, exceeds the bound, multiply all directions by
            sqrt(bound / q). None disables the clip.
        sharing: Use of the positions (pixels or tokens) of one example in the covariances: each
            position is a separate row (`expand`), or the inputs are first averaged and the output
            gradients summed over the positions (`reduce`).
        g_scale: Output gradients in their covariance: those of each example's loss, summed over
            positions (`fisher`, the scale of the Fisher matrix), or those of the batch's mean loss,
            averaged over positions (`official`, as in the released code).
        init: Initial value of both covariances: 0, with bias correction (`zero`), or, without bias
            correction, the identity matrix (`identity`) or the value of the first update (`first`).
    """

    NUMERICS: ClassVar[int] = 1
    SHARED: ClassVar[tuple[str, ...]] = ("factor",)
    NEEDS: ClassVar[Needs] = Needs.BOTH
    CARD: ClassVar[Card | None] = Card(
        paper="Martens and Grosse, ICML 2015",
        cost="2N(p^2 + o^2)/c + (p^3 + o^3)/i + 2op(o + p); "
        "eigen: 2N(p^2 + o^2)/c + 9(p^3 + o^3)/i + 4op(o + p)",
        memory="2(p^2 + o^2); eigen: + op",
        deviations="output gradients are those of each example's loss, not of the batch's mean "
        "loss; the covariances start at zero, with bias correction; pi is clamped to [1e-4, 1e4] (in "
        "the released code, it is at most 1e10)",
        unsupported=NO_UNSCALE,
    )

    damping: float = positive(1.0, symbol="rho")
    damping_rule: str = choice("factored", "eigen")
    kl_clip: float | None = optional(positive(1e-3, symbol="kappa"))
    sharing: str = choice("expand", "reduce")
    g_scale: str = choice("fisher", "official")
    init: str = choice("zero", "identity", "first")

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> KFACState:
        """Return the initial A and S, and P = I / damping."""
        num_layers, o, p = len(layers), shape.d_out, shape.d_in
        statistic = KroneckerStatistic.zeros(num_layers, o, p, like)
        if self.init == "identity":
            statistic.inputs.start_at_identity()
            statistic.outputs.start_at_identity()
        kind = Kronecker if self.damping_rule == "factored" else KroneckerEigen
        return KFACState(statistic, kind.identity(num_layers, o, p, self.damping, like))

    def accumulate(self, state: KFACState, slots: slice, signals: Signals) -> None:
        """Add the sum of a a^T or the sum of g g^T, whichever the signals contain."""
        if signals.inputs is not None:
            state.statistic.inputs.add(slots, *input_moment(signals.inputs, self.sharing))
        if signals.output_gradients is not None:
            moment = output_moment(signals.output_gradients, self.sharing, self.g_scale)
            state.statistic.add_outputs(slots, *moment, signals.backward)

    def commit(self, state: KFACState) -> None:
        """Update the moving averages."""
        # `official` divides by B twice more. The B of the whole step is not known before `commit`.
        power = 3 if self.g_scale == "official" else 1
        state.statistic.commit(self.ema_decay, copy_first=self.init == "first", output_power=power)

    def refresh(self, state: KFACState) -> Outcome:
        """Invert or decompose A and S."""
        if isinstance(state.factor, Kronecker):
            *inverses, outcome = factored_inverses(*state.statistic.means(), self.damping)
            state.factor.store(outcome.ok, *inverses)
            return outcome
        *factors, ok = eigen_factors(*state.statistic.means(), self.damping)
        state.factor.store(ok, *factors)
        return Outcome.of(ok)

    def curvature(self, state: KFACState) -> Curvature:
        """Return A and S."""
        s, a = state.statistic.means()
        return Curvature(inputs=a, outputs=s, damping=self.damping)


def input_moment(rows: Rows, sharing: str) -> tuple[Tensor, int]:
    """Return the sum of a a^T `[groups, p, p]` and the number of its terms."""
    if sharing == "expand":
        return rows.gram(), rows.count
    means = rows.example_means()
    return means.mT @ means, rows.examples


def output_moment(gradients: Tensor, sharing: str, g_scale: str) -> tuple[Tensor, int]:
    """Return the sum of g g^T `[groups, o, o]` and the number of examples.

    The gradients are `[groups, B, T, o]`. With `g_scale="official"`, the sum is divided by T (by
    T^2 for `reduce`). `KFAC.commit` later divides it by B^2 as well, when the B of the whole step
    is known.
    """
    _, examples, positions, _ = gradients.shape
    expand = sharing == "expand"
    total = output_gram(gradients if expand else gradients.sum(2, keepdim=True))
    if g_scale == "official":
        total = total / positions ** (1 if expand else 2)
    return total, examples


def factored_inverses(s: Tensor, a: Tensor, damping: float) -> tuple[Tensor, Tensor, Outcome]:
    """Return `(S + sqrt(rho)/pi I)^{-1}`, `(A + pi sqrt(rho) I)^{-1}` and the outcome."""
    traces = [matrix.diagonal(dim1=-2, dim2=-1).double().mean(-1) for matrix in (a, s)]
    pi = (traces[0] / traces[1]).sqrt().clamp(*PI_RANGE)
    pi = torch.where((traces[0] > 0) & (traces[1] > 0), pi, 1)
    (s_inverse, (s_ok, s_retried)), (a_inverse, (a_ok, a_retried)) = linalg.damped_inverses(
        (s, damping**0.5 / pi), (a, damping**0.5 * pi)
    )
    return s_inverse, a_inverse, Outcome(s_ok & a_ok, s_retried | a_retried)


def eigen_factors(s: Tensor, a: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return U, V, `1 / (s a^T + rho)` and `ok [L]` in float64.

    S = U diag(s) U^T and A = V diag(a) V^T.
    """
    s_values, u, s_ok = linalg.eigh(linalg.symmetrize(s.double()))
    a_values, v, a_ok = linalg.eigh(linalg.symmetrize(a.double()))
    products = s_values.clamp(min=0).unsqueeze(-1) * a_values.clamp(min=0).unsqueeze(-2)
    return u, v, 1 / (products + damping), s_ok & a_ok
