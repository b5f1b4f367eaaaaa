"""STEVE: Adam in the eigenbasis of KFAC.

For each layer, with the number c of updates since the last reset (line numbers are those of
Algorithm 1 in the STEVE paper):

    every n steps, starting with step 0, from the rows of that step:
        (1/B) sum_n g_n g_n^T = U diag(l) U^T,   (1/B) sum_n a_n a_n^T = V diag(k) V^T     (line 17)
        m, v <- 0,   c <- 0
    every step:
        G~ = U^T G V,   c <- c + 1
        m <- b1 m + (1 - b1) G~
        minibatch:    v <- b2 v + (1 - b2) G~^.2                                           (line 22)
        per_example:  v <- b2 v + (1 - b2) (1/B) sum_n (U^T G_n V)^.2                      (line 22)
        D = lr U [ (m / (1 - b1^c)) / (sqrt(v / (1 - b2^c)) + eps) ] V^T
        W <- (1 - lr decay) W - D

X^.2 contains the squares of the entries of X. With U = V = I, this is Adam, bit for bit. The basis
of a linear layer is that of KFAC with `reduce`: g_n is the sum and a_n the mean over the positions.
The basis of a convolution is that of KFAC with `expand`: each position counts as an example. G_n is
always the full gradient of example n. In the null space of a covariance, which is not {0} if a
batch has fewer rows than inputs, `parts/eigenbases.py` chooses a reproducible basis, and components
of G~ as small as rounding errors are set to 0. The rule `fallback`, by default Adam, updates
parameters that belong to no layer, and layers whose forward has never been called.

Cost per step: [2 N (p^2 + o^2) + 9 (p^3 + o^3)] / n + 4 o p (o + p) operations; a singular
covariance adds 9 (p^3 + o^3) / n; per_example adds 2 N (p^2 + o^2) + 2 N o p. Memory:
2 (p^2 + o^2) + 2 o p + o + p per layer.

`docs/algorithms.md` defines the symbols and describes the options for what the paper leaves open.
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
from precond.algorithms.kfac import input_moment, output_moment
from precond.hyperparameters import choice, count, fraction, fractions, optional, positive
from precond.parts import linalg
from precond.parts.factors import KroneckerBasis
from precond.parts.linalg import Outcome
from precond.parts.pairs import Pairs
from precond.parts.rows import LinearRows, Rows
from precond.parts.statistics import KroneckerStatistic, MovingAverage

# A sum counts as zero if it is at most this number x eps x the sum of the absolute values of its
# terms. In attention layers, sums that are exactly zero in theory reached 7 x eps x this sum.
CANCELLED = 32.0


@dataclass
class STEVEState:
    """The state of a bank.

    Attributes:
        statistic: The covariances of the inputs and of the output gradients.
        basis: Their eigenbases U and V.
        m: Adam's first moment in these bases, `[L, o, p]`.
        v: Adam's second moment in these bases, `[L, o, p]`.
        m_count: Number of updates of m since its last reset, `[L]`.
        v_count: Number of updates of v since its last reset, `[L]`.
    """

    statistic: KroneckerStatistic
    basis: KroneckerBasis
    m: Tensor
    v: Tensor
    m_count: Tensor
    v_count: Tensor
    _pairs: Pairs = field(default_factory=Pairs)
    _fresh: Tensor | None = None  # mask of the slots with new covariances


@dataclass(frozen=True, kw_only=True)
class STEVE(Algorithm[STEVEState]):
    """Adam in KFAC's eigenbasis; its directions contain the learning rate.

    Attributes:
        betas: Weights of the old values in the first moment m and in the second moment v.
        eps: Added to the square root of the second moment.
        basis_interval: Number of steps between computations of the eigenbases.
        bias_correction: Divisor of a moment with weight b after c updates: 1 - b^c (`adam`), or the
            square root of 1 - b^c (`paper`).
        second_moment: The squares that v averages over steps: the squared mean gradient of the
            batch (`minibatch`), or the squared gradient of each example (`per_example`).
        on_refresh: Change of the moments when new eigenbases are computed: set m and v to 0
            (`reset`), rotate m into the new bases and restart v from the squares of the rotated m
            (`rotate_m`), rotate m and v (`rotate_mv`), or rotate m and do not change v (`keep_v`).
        factor_ema: Weight of the old value in moving averages of the covariances; None computes the
            eigenbases from the covariances of the current step alone.
        fallback: Update rule for parameters without an eigenbasis: Adam (`adam`), or SGD without
            momentum (`sgd`).
    """

    NUMERICS: ClassVar[int] = 2
    SHARED: ClassVar[tuple[str, ...]] = ("basis", "m", "v", "m_count", "v_count")
    VARIABLE: ClassVar[tuple[str, ...]] = ("betas", "eps")
    NEEDS: ClassVar[Needs] = Needs.PAIRS
    CARD: ClassVar[Card | None] = Card(
        paper="STEVE: Adaptive Optimization in a Kronecker Factored Eigenbasis",
        cost="[2N(p^2+o^2) + 9(p^3+o^3)]/n + 4op(o+p); singular covariances: + 9(p^3+o^3)/n; "
        "per_example: + 2N(p^2+o^2) + 2Nop",
        memory="2(p^2+o^2)+2op+o+p",
        deviations="there is no released code; in contrast to the paper, the defaults are Adam's "
        "bias correction, the second moment of the batch's mean gradient, and Adam for the "
        "parameters that belong to no layer; the basis of a null space is reproducible, and "
        "rounding errors in it are set to 0",
        unsupported=NO_UNSCALE,
    )

    betas: tuple[float, float] = fractions((0.9, 0.999), symbol="b1, b2")
    eps: float = positive(1e-8)
    basis_interval: int = count(500, symbol="n")
    bias_correction: str = choice("adam", "paper")
    second_moment: str = choice("minibatch", "per_example")
    on_refresh: str = choice("reset", "rotate_m", "rotate_mv", "keep_v")
    factor_ema: float | None = optional(fraction(None))
    fallback: str = choice("adam", "sgd")

    def statistics_due(self, step: int) -> bool:
        """Return True every `basis_interval` steps, and every step for per-example moments."""
        return self.second_moment == "per_example" or self.refresh_due(step)

    def refresh_due(self, step: int) -> bool:
        """Return True every `basis_interval` steps."""
        return step % self.basis_interval == 0

    def new_state(self, shape: LayerShape, layers: Sequence[str], like: Tensor) -> STEVEState:
        """Return U = V = I and zero moments."""
        size = len(layers), shape.d_out, shape.d_in
        m, v = (like.new_zeros(size) for _ in range(2))
        m_count, v_count = (like.new_zeros(len(layers), dtype=torch.int64) for _ in range(2))
        basis = KroneckerBasis.identity(*size, like)
        return STEVEState(KroneckerStatistic.zeros(*size, like), basis, m, v, m_count, v_count)

    def accumulate(self, state: STEVEState, slots: slice, signals: Signals) -> None:
        """Add the signals to the covariances, or keep the signals for the per-example moments."""
        if self.second_moment == "per_example":
            state._pairs.add(slots, *signals.pair(), signals.backward)
        else:
            add_moments(state.statistic, slots, *signals.pair())

    def prepare(self, state: STEVEState) -> STEVEState:
        """Return the state with new covariances and a mask of the slots that received them."""
        for slots, uses in state._pairs.passes():
            for rows, g in uses:
                add_moments(state.statistic, slots, rows, g)
        return replace(state, _fresh=state.statistic.commit(self.factor_ema or 0.0))

    def refresh(self, state: STEVEState) -> Outcome:
        """Compute new bases, and change the moments as `on_refresh` requires."""
        assert state._fresh is not None
        old = state.basis.output.clone(), state.basis.input.clone()
        _, _, ok = state.basis.update(*state.statistic.means(), state._fresh)
        self._change_moments(state, *old, ok)
        return Outcome.of(ok)

    def curvature(self, state: STEVEState) -> Curvature:
        """Return the covariances of the inputs and of the output gradients."""
        s, a = state.statistic.means()
        return Curvature(inputs=a, outputs=s)

    def _change_moments(self, state: STEVEState, u: Tensor, v: Tensor, ok: Tensor) -> None:
        """Change the moments after the old bases U and V have been replaced where `ok` is True."""
        if self.on_refresh == "reset":
            state.m.masked_fill_(linalg.per_layer(ok, state.m), 0)
            state.m_count.masked_fill_(ok, 0)
        else:
            r, q = state.basis.output.mT @ u, state.basis.input.mT @ v
            m = state.basis.without_rounding_errors(r @ state.m @ q.mT)
            state.m.copy_(linalg.select(ok, m, state.m))
            if self.on_refresh == "rotate_mv":
                state.v.copy_(linalg.select(ok, r.square() @ state.v @ q.square().mT, state.v))
        if self.on_refresh == "reset":
            state.v.masked_fill_(linalg.per_layer(ok, state.v), 0)
            state.v_count.masked_fill_(ok, 0)
        elif self.on_refresh == "rotate_m":
            self._restart_v(state, ok)

    def _restart_v(self, state: STEVEState, ok: Tensor) -> None:
        """Set v to its value after one update with the mean gradient that m estimates.

        With v = 0, small gradients after a refresh would lead to very long steps along m.
        """
        b1, b2 = self.betas
        count = state.m_count.double()
        scale = torch.where(count > 0, 1 / (1 - b1**count), 0).to(state.m.dtype)
        v = (1 - b2) * (linalg.per_layer(scale, state.m) * state.m).square()
        state.v.copy_(linalg.select(ok, v, state.v))
        state.v_count.copy_(torch.where(ok, (count > 0).to(state.v_count), state.v_count))

    def precondition(
        self, state: STEVEState, gradients: Tensor, lr: float, overwrite: bool = False
    ) -> Tensor:
        """Update m and v, and return D; where the new moments are not finite, return lr G.

        The operations and their order are those of `torch.optim.Adam`.
        """
        b1, b2 = self.betas
        rotated = state.basis.rotate(gradients)
        if self.second_moment == "minibatch":
            v = (state.v * b2).addcmul_(rotated, rotated, value=1 - b2)
            ok = linalg.all_finite(v)
        else:
            v, ok = self._average_examples(state)
        ok &= linalg.all_finite(rotated)
        state.m.copy_(linalg.select(ok, state.m.lerp(rotated, 1 - b1), state.m))
        state.v.copy_(linalg.select(ok, v, state.v))
        state.m_count += ok
        state.v_count += ok
        m_correction = self._correction(b1, state.m_count)
        v_correction = self._correction(b2, state.v_count)
        step_size = linalg.per_layer((lr / m_correction).to(rotated.dtype), rotated)
        root = linalg.per_layer(v_correction.sqrt().to(rotated.dtype), rotated)
        directions = step_size * state.m / (state.v.sqrt() / root).add_(self.eps)
        return linalg.select(ok, state.basis.restore(directions), lr * gradients)

    def _average_examples(self, state: STEVEState) -> tuple[Tensor, Tensor]:
        """Return the next v from per-example gradients, and a mask of the finite slots."""
        fresh = MovingAverage.zeros(*state.v.shape, like=state.v)
        with linalg.exact_arithmetic(state.v.device):
            for slots, total, examples in state._pairs.second_moments(state.basis):
                fresh.add(slots, total, examples)
        state._pairs.clear()
        ok = fresh.commit(0.0)
        return (state.v * self.betas[1]).add_(fresh.value, alpha=1 - self.betas[1]), ok

    def _correction(self, beta: float, count: Tensor) -> Tensor:
        """Return the divisor of a moment, `[L]` in float64."""
        correction = 1 - beta ** count.double()
        return correction if self.bias_correction == "adam" else correction.sqrt()


def add_moments(statistic: KroneckerStatistic, slots: slice, rows: Rows, gradients: Tensor) -> None:
    """Add one call of a layer to its covariances, as KFAC does with `reduce` or `expand`.

    Linear layers use `reduce`, and convolutions use `expand`.
    """
    sharing = "reduce" if isinstance(rows, LinearRows) else "expand"
    if sharing == "reduce":
        gradients = sum_over_positions(gradients)
    statistic.inputs.add(slots, *input_moment(rows, sharing))
    statistic.outputs.add(slots, *output_moment(gradients, sharing, g_scale="fisher"))


def sum_over_positions(gradients: Tensor) -> Tensor:
    """Return the sums over the positions; set sums that are only rounding errors to 0.

    For example, the sums are 0 for the key projection of an attention layer, because the softmax
    does not change if all scores of a query change by the same number. The basis of their rounding
    errors would depend on the order of the examples.

    Args:
        gradients: `[groups, batch, positions, d_out]`.

    Returns:
        `[groups, batch, 1, d_out]`.
    """
    if gradients.shape[2] == 1:
        return gradients
    total, size = gradients.sum(2, keepdim=True), gradients.abs().sum(2, keepdim=True)
    return total.masked_fill(total.abs() <= CANCELLED * torch.finfo(size.dtype).eps * size, 0)
