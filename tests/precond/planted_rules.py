"""SGD, Lion and RMSprop with planted differences, like `planted.py`."""

from __future__ import annotations

import torch

from tests.precond.planted import ByTensor


class Momentum(ByTensor):
    """SGD with coupled weight decay and heavy-ball momentum."""

    def __init__(self, params, lr=0.1, momentum=0.9, weight_decay=0.05):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def update(self, p, g, state, group):
        g = self.incoming(p, g, group)
        m = state["m"] = self.buffer(g, state, group)
        p -= self.direction(p, g, m, state["t"], group)

    def incoming(self, p, g, group):
        return g + group["weight_decay"] * p

    def buffer(self, g, state, group):
        return group["momentum"] * state.get("m", 0.0) + g

    def direction(self, p, g, m, t, group):
        return group["lr"] * m


class Averaged(Momentum):
    """The momentum is a moving average."""

    def buffer(self, g, state, group):
        b = group["momentum"]
        return b * state.get("m", 0.0) + (1 - b) * g


class AveragedFromGradient(Momentum):
    """The momentum is a moving average that starts at the first gradient."""

    def buffer(self, g, state, group):
        b = group["momentum"]
        return b * state["m"] + (1 - b) * g if "m" in state else g.clone()


class LrInBuffer(Momentum):
    """The momentum contains the learning rate."""

    def buffer(self, g, state, group):
        return group["momentum"] * state.get("m", 0.0) + group["lr"] * g

    def direction(self, p, g, m, t, group):
        return m


class NesterovFromStep2(Momentum):
    """Nesterov momentum, but not in the first step."""

    def direction(self, p, g, m, t, group):
        return group["lr"] * (m if t == 1 else g + group["momentum"] * m)


class Decoupled(Momentum):
    """The weight decay is decoupled."""

    def incoming(self, p, g, group):
        p *= 1 - group["lr"] * group["weight_decay"]
        return g


class HiddenLr(Momentum):
    """The learning rate is multiplied by 1.7."""

    def direction(self, p, g, m, t, group):
        return 1.7 * group["lr"] * m


class TrustRatio(Momentum):
    """The learning rate of each tensor is multiplied by |w| / |m|."""

    def direction(self, p, g, m, t, group):
        return group["lr"] * p.norm() / m.norm() * m


class Normalised(Momentum):
    """The gradient is divided by the norm of all gradients."""

    def step(self, closure=None):
        parameters = self.param_groups[0]["params"]
        norm = torch.cat([p.grad.reshape(-1) for p in parameters]).norm()
        for p in parameters:
            p.grad /= norm
        super().step(closure)


class Lion(ByTensor):
    """Lion."""

    def __init__(self, params, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)

    def update(self, p, g, state, group):
        lr, (b1, b2) = group["lr"], group["betas"]
        m = state.get("m", torch.zeros_like(g))
        p *= 1 - lr * group["weight_decay"]
        p -= lr * torch.sign(b1 * m + (1 - b1) * g)
        state["m"] = b2 * m + (1 - b2) * g


class LionDecayAfter(Lion):
    """The decay follows the step."""

    def update(self, p, g, state, group):
        super().update(p, g, state, {**group, "weight_decay": 0.0})
        p *= 1 - group["lr"] * group["weight_decay"]


class RMSpropInside(ByTensor):
    """RMSprop with eps inside the root."""

    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-3):
        super().__init__(params, lr=lr, alpha=alpha, eps=eps)

    def update(self, p, g, state, group):
        a = group["alpha"]
        v = state["v"] = a * state.get("v", 0.0) + (1 - a) * g * g
        p -= group["lr"] * g / torch.sqrt(v + group["eps"])
