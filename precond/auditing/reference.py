"""A reference implementation of the family of optimizers in float64.

The code is written to be read, not to be fast. All parameters are one vector with D entries.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from precond.auditing.conventions import ADAPTIVE, LION, SIGN, Conventions
from precond.auditing.trajectory import Layout, Trajectory


def updates(conventions: Conventions, trajectory: Trajectory) -> Iterator[Tensor]:
    """Yield the update of each step, `[D]`, from the weights and gradients of a trajectory."""
    reference = Reference(conventions, trajectory.layout)
    for weights, gradient, factor in trajectory.rows:
        yield reference.update(weights, gradient, conventions.lr * factor)


class Reference:
    """An optimizer with the given conventions, which starts without a state."""

    def __init__(self, conventions: Conventions, layout: Layout):
        self.conventions, self.layout = conventions, layout
        self.number = 0
        self.m: Tensor | None = None
        self.v: Tensor | None = None
        self.peak: Tensor | None = None

    def update(self, w: Tensor, gradient: Tensor, lr: float) -> Tensor:
        """Return the new weights minus the old ones, `[D]`."""
        c = self.conventions
        self.number += 1
        g = plain = self._incoming(-gradient if c.sense == "ascent" else gradient)
        if c.decay in ("gradient", "first moment"):
            g = g + c.weight_decay * w
        weight = lr if c.lr_place == "inside" else 1.0
        if c.kind == ADAPTIVE:
            direction = self._adaptive(g, plain if c.decay == "first moment" else g)
        elif c.kind == LION:
            direction = self._lion(g)
        else:
            direction = self._momentum(weight * g)
            direction = direction.sign() if c.kind == SIGN else direction
        step = (lr if weight == 1.0 else 1.0) * self._scaled(direction, w)
        return self._decayed(w, step, lr)

    def _incoming(self, g: Tensor) -> Tensor:
        """Return the clipped or normalised gradient."""
        c, norms = self.conventions, self.layout.norms
        if c.gradient == "clipped":
            return g * (c.max_norm / (g.norm() + 1e-6)).clamp(max=1)
        if c.gradient == "clipped exactly":
            return g * (c.max_norm / g.norm()).clamp(max=1)
        if c.gradient == "clipped by value":
            return g.clamp(-c.max_norm, c.max_norm)
        if c.gradient == "normalised":
            return g / g.norm()
        if c.gradient == "normalised by tensor":
            return g / self.layout.spread(norms(g)).clamp(min=1e-300)
        return g

    def _momentum(self, g: Tensor) -> Tensor:
        """Update m, and return the direction of momentum."""
        c = self.conventions
        dampening = c.beta1 if c.momentum == "average" else c.dampening
        if c.beta1 == 0:
            self.m = g
            return g
        fresh = (1 - dampening) * g
        if self.m is None:
            self.m = g if c.first_buffer == "gradient" else fresh
        else:
            self.m = c.beta1 * self.m + fresh
        corrected = c.first_correction == "yes"
        now = self._correction(c.beta1) if corrected else 1.0
        if c.nesterov == "no" or (c.nesterov == "from step 2" and self.number == 1):
            return self.m / now
        later = self._correction(c.beta1, ahead=1) if corrected else 1.0
        return c.beta1 * self.m / later + (g if c.nesterov == "plain g" else fresh) / now

    def _correction(self, beta: float, ahead: int = 0) -> float:
        """Return 1 - beta^t."""
        number = self.number + {"zero": -1, "one": 0, "two": 1}[self.conventions.counter] + ahead
        return 1 - beta**number if number else 1.0

    def _adaptive(self, g: Tensor, plain: Tensor) -> Tensor:
        """Return the direction of an adaptive method; v is computed from `plain`."""
        c = self.conventions
        if c.order == "ratio":
            return self._momentum(g / self._denominator(plain))
        direction = self._momentum(g)
        assert self.m is not None
        deviation = plain - self.m if c.second_of == "deviation" else plain
        return direction / self._denominator(deviation)

    def _denominator(self, g: Tensor) -> Tensor:
        """Update v, and return the root that divides the direction."""
        c = self.conventions
        square = g.square() + (c.eps if c.eps_place == "squares" else 0.0)
        start = {"zero": torch.zeros_like(g), "square": square, "one": torch.ones_like(g)}
        old = start[c.second_start] if self.v is None else self.v
        if self.v is None and c.second_start == "square":
            self.v = square
        elif c.second_form == "average":
            self.v = c.beta2 * old + (1 - c.beta2) * square
        else:
            self.v = (c.beta2 if c.second_form == "decayed sum" else 1.0) * old + square
        return self._rooted(old if c.second_use == "old" else self.v)

    def _rooted(self, v: Tensor) -> Tensor:
        c = self.conventions
        corrected = c.second_correction == "yes" and c.second_form == "average"
        correction = self._correction(c.beta2) if corrected else 1.0
        if c.amsgrad == "corrected":
            v, correction = v / correction, 1.0
        if c.amsgrad != "no":
            self.peak = v = v if self.peak is None else torch.maximum(self.peak, v)
        if c.eps_place == "outside, not corrected":
            return (v.sqrt() + c.eps) / correction**0.5
        if c.eps_place == "inside, not corrected":
            return ((v + c.eps) / correction).sqrt()
        v = v / correction
        if c.eps_place == "inside":
            return (v + c.eps).sqrt()
        if c.eps_place == "inside, squared":
            return (v + c.eps**2).sqrt()
        if c.eps_place == "maximum":
            return v.sqrt().clamp(min=c.eps)
        return v.sqrt() + (c.eps if c.eps_place == "outside" else 0.0)

    def _lion(self, g: Tensor) -> Tensor:
        c = self.conventions
        m = torch.zeros_like(g) if self.m is None else self.m
        self.m = c.beta2 * m + (1 - c.beta2) * g
        return (c.beta1 * m + (1 - c.beta1) * g).sign()

    def _scaled(self, direction: Tensor, w: Tensor) -> Tensor:
        """Return the direction times the factor of each tensor."""
        scale, layout = self.conventions.scale, self.layout
        if scale == "none":
            return direction
        if scale == "trust ratio":
            ratio = layout.norms(w) / layout.norms(direction)
            return direction * layout.spread(torch.nan_to_num(ratio, 1.0, 1.0, 1.0))
        return direction * layout.spread(layout.factors[scale])

    def _decayed(self, w: Tensor, step: Tensor, lr: float) -> Tensor:
        """Return the update with decoupled weight decay."""
        decay = self.conventions.decay
        rate = self.conventions.weight_decay * (1.0 if decay.startswith("without") else lr)
        if decay in ("before", "without lr"):
            return -rate * w - step
        if decay in ("after", "without lr, after"):
            return -rate * (w - step) - step
        return -step
