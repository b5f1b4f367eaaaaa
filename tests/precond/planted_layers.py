"""Methods that precondition layers, with planted differences, like `planted.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import precond
from tests.precond.planted import ByTensor


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
