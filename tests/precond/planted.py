"""Optimizers with planted differences, written by hand, for the tests of the audit.

The audit loads this file as it loads a user's file. Each class differs from the textbook method in
what its docstring says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

import precond


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


class PreconditionedDecay(precond.FOOF):
    """The weight decay is added to the gradient before it is preconditioned."""

    def step(self, closure=None):
        decay = self.param_groups[0]["weight_decay"]
        for p in self.param_groups[0]["params"]:
            p.grad = p.grad + decay * p.detach()
        for group in self.param_groups:
            group["weight_decay"] = 0.0
        super().step(closure)
        for group in self.param_groups:
            group["weight_decay"] = decay


class ReleasedNesterov(ByTensor):
    """The rule of the released NysAct after FOOF: no Nesterov momentum in the first step."""

    def __init__(self, model, lr=0.1, momentum=0.9):
        super().__init__(list(model.parameters()), lr=lr, momentum=momentum)
        settings = {"momentum": 0.0, "weight_decay": 0.0, "cov_interval": 1, "inv_interval": 1}
        self.inner = precond.FOOF(model, lr=1.0, **settings)

    def zero_grad(self, set_to_none=True):
        self.inner.zero_grad(set_to_none)

    def step(self, closure=None):
        parameters = self.param_groups[0]["params"]
        before = [p.detach().clone() for p in parameters]
        self.inner.step()
        for p, old in zip(parameters, before, strict=True):
            p.grad = old - p.detach()
            p.data.copy_(old)
        super().step(closure)

    def update(self, p, g, state, group):
        m = state["m"] = group["momentum"] * state.get("m", 0.0) + g
        p -= group["lr"] * (m if state["t"] == 1 else g + group["momentum"] * m)


class LiteralFOOF(ByTensor):
    """FOOF, layer by layer: D = G (A + damping I)^-1, with the covariance A of this step."""

    bias = True

    def __init__(self, model, lr=0.1):
        super().__init__(list(model.parameters()), lr=lr)
        self.layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        self.inputs = {}
        for layer in self.layers:
            layer.register_forward_pre_hook(self.record)

    def record(self, layer, arguments):
        x = arguments[0].detach()
        if isinstance(layer, nn.Conv2d):
            x = F.unfold(x, layer.kernel_size).mT.flatten(0, 1)
        if layer.bias is not None and self.bias:
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        self.inputs[layer] = x

    def inverse(self, layer):
        x = self.inputs[layer]
        return torch.linalg.inv(x.T @ x / len(x) + 0.3 * torch.eye(x.shape[1], dtype=x.dtype))

    @torch.no_grad()
    def step(self, closure=None):
        for layer in self.layers:
            gradient = layer.weight.grad.flatten(1)
            with_bias = layer.bias is not None and self.bias
            if with_bias:
                gradient = torch.cat([gradient, layer.bias.grad[:, None]], 1)
            direction = gradient @ self.inverse(layer)
            if with_bias:
                layer.bias.grad.copy_(direction[:, -1])
                direction = direction[:, :-1]
            layer.weight.grad.copy_(direction.reshape(layer.weight.shape))
        super().step(closure)

    def update(self, p, g, state, group):
        p -= group["lr"] * g


class FOOFWithoutBias(LiteralFOOF):
    """The bias is not preconditioned."""

    bias = False


class DelayedFOOF(LiteralFOOF):
    """The covariance is that of the step before; the first step follows the gradient."""

    def inverse(self, layer):
        old = self.state[layer.weight].get("inverse", torch.eye(self.inputs[layer].shape[1]))
        self.state[layer.weight]["inverse"] = super().inverse(layer)
        return old.to(layer.weight)


class Broken(Optimizer):
    """The constructor raises an error."""

    def __init__(self, params, lr=0.1):
        raise RuntimeError("broken on purpose\nwith a second line")


def no_optimizer(params, lr=0.1):
    """Return something else."""
    return lr
