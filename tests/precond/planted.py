"""Optimizers with planted differences, written by hand, for the tests of the audit.

The audit loads this file as it loads a user's file. Each class differs from the textbook method in
what its docstring says.
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer


class ByTensor(Optimizer):
    """Base: `update` changes one parameter."""

    def __init__(self, params, **defaults):
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["t"] = state.get("t", 0) + 1
                self.update(p, p.grad, state, group)


class Adam(ByTensor):
    """Adam with decoupled weight decay; the methods are replaced one at a time."""

    def __init__(
        self,
        params,
        lr: float = 0.01,
        b1=0.9,
        b2=0.99,
        eps: float = 1e-3,
        weight_decay: float = 0.1,
    ):
        super().__init__(params, lr=lr, betas=(b1, b2), eps=eps, weight_decay=weight_decay)

    def update(self, p, g, state, group):
        lr, (b1, b2), decay = group["lr"], group["betas"], group["weight_decay"]
        g = self.incoming(p, g, group)
        self.decay_before(p, lr, decay)
        m, v = self.moments(g, state, b1, b2)
        c1, c2 = self.corrections(state["t"], b1, b2)
        p -= lr * self.scale(p, m) * (m / c1) / self.root(v, c2, group["eps"])
        self.decay_after(p, lr, decay)

    def incoming(self, p, g, group):
        return g

    def decay_before(self, p, lr, decay):
        p *= 1 - lr * decay

    def decay_after(self, p, lr, decay):
        pass

    def moments(self, g, state, b1, b2):
        m = state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
        v = state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
        return m, v

    def corrections(self, t, b1, b2):
        return 1 - b1**t, 1 - b2**t

    def root(self, v, c2, eps):
        return torch.sqrt(v / c2) + eps

    def scale(self, p, m):
        return 1.0


class EpsInside(Adam):
    """Eps is added to v after the correction."""

    def root(self, v, c2, eps):
        return torch.sqrt(v / c2 + eps)


class EpsHat(Adam):
    """Eps is added before the correction, outside the root."""

    def root(self, v, c2, eps):
        return (torch.sqrt(v) + eps) / c2**0.5


class EpsInSquares(Adam):
    """Eps is added to the squares of the gradient."""

    def moments(self, g, state, b1, b2):
        m, v = super().moments(g, state, b1, b2)
        v += (1 - b2) * 1e-3
        return m, v

    def root(self, v, c2, eps):
        return torch.sqrt(v / c2)


class NoFirstCorrection(Adam):
    """M is not corrected."""

    def corrections(self, t, b1, b2):
        return 1.0, 1 - b2**t


class NoSecondCorrection(Adam):
    """V is not corrected."""

    def corrections(self, t, b1, b2):
        return 1 - b1**t, 1.0


class CounterAhead(Adam):
    """The first step has t = 2."""

    def corrections(self, t, b1, b2):
        return super().corrections(t + 1, b1, b2)


class DecayWithoutLr(Adam):
    """The decay is not scaled by the learning rate."""

    def decay_before(self, p, lr, decay):
        p *= 1 - decay


class DecayAfter(Adam):
    """The decay follows the step."""

    def decay_before(self, p, lr, decay):
        pass

    def decay_after(self, p, lr, decay):
        p *= 1 - lr * decay


class DecayInFirstMoment(Adam):
    """The decay is added to the gradient of m only."""

    def update(self, p, g, state, group):
        self.weights, self.rate = p, group["weight_decay"]
        super().update(p, g, state, group)

    def decay_before(self, p, lr, decay):
        pass

    def moments(self, g, state, b1, b2):
        m, v = super().moments(g, state, b1, b2)
        m += (1 - b1) * self.rate * self.weights
        return m, v


class OldSecondMoment(Adam):
    """V is used before its update."""

    def moments(self, g, state, b1, b2):
        old = state.get("v", torch.zeros_like(g))
        m, _ = super().moments(g, state, b1, b2)
        return m, old


class Deviation(Adam):
    """V is of g - m."""

    def moments(self, g, state, b1, b2):
        m = state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
        v = state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * (g - m) ** 2
        return m, v


class NormalisedByTensor(Adam):
    """Each gradient is divided by its norm."""

    def incoming(self, p, g, group):
        return g / g.norm()


class Clipped(Adam):
    """The norm of all gradients is clipped at 1."""

    def step(self, closure=None):
        torch.nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 1.0)
        return super().step(closure)


class Swapped(Adam):
    """Beta1 is the weight of the new gradient."""

    def moments(self, g, state, b1, b2):
        return super().moments(g, state, 1 - b1, b2)

    def corrections(self, t, b1, b2):
        return super().corrections(t, 1 - b1, b2)


class HiddenBeta2(Adam):
    """Beta2 is 0.95, whatever the options say."""

    def update(self, p, g, state, group):
        super().update(p, g, state, {**group, "betas": (group["betas"][0], 0.95)})


class HiddenEps(Adam):
    """Eps is 0.02, whatever the options say."""

    def update(self, p, g, state, group):
        super().update(p, g, state, {**group, "eps": 0.02})


class ByShape(Adam):
    """The learning rate of a matrix is multiplied by 0.2 sqrt(max(rows, columns))."""

    def scale(self, p, m):
        return 0.2 * max(len(p), p[0].numel()) ** 0.5 if p.dim() > 1 else 1.0


class EpsInsideUncorrected(EpsInside, NoFirstCorrection):
    """Two differences."""


class AfterWithoutSecondCorrection(DecayAfter, NoSecondCorrection):
    """Two differences."""


class Cubed(Adam):
    """The direction is a cubic function of m, which is in no catalogue."""

    def moments(self, g, state, b1, b2):
        m, v = super().moments(g, state, b1, b2)
        return m + 0.1 * m**3, v


class Broken(Optimizer):
    """The constructor raises an error."""

    def __init__(self, params, lr=0.1):
        raise RuntimeError("broken on purpose\nwith a second line")


def no_optimizer(params, lr=0.1):
    """Return something else."""
    return lr
