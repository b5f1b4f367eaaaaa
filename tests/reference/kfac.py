"""KFAC for one layer, and a training loop with KL-clip for methods that use output gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from reference import gradient_matrices, rows


class Method(Protocol):
    """A method for one weight matrix.

    It uses the rows X `[B, T, p]` and the gradients dY `[B, T, o]` of the mean loss of the batch.
    """

    def update(self, X: Tensor, dY: Tensor) -> None: ...

    def direction(self, G: Tensor) -> Tensor: ...


class KFAC:
    """KFAC with both damping rules.

    `factored`: D = (S + sqrt(rho)/pi I)^{-1} G (A + pi sqrt(rho) I)^{-1}
    `eigen`: vec(D) = (S (x) A + rho I)^{-1} vec(G)
    """

    def __init__(
        self,
        p: int,
        o: int,
        *,
        beta: float,
        rho: float,
        rule: str,
        sharing: str,
        g_scale: str,
        init: str,
    ):
        self.beta, self.rho = beta, rho
        self.rule, self.sharing, self.g_scale, self.init = rule, sharing, g_scale, init
        self.A = torch.eye(p).double() if init == "identity" else torch.zeros(p, p).double()
        self.S = torch.eye(o).double() if init == "identity" else torch.zeros(o, o).double()
        self.k = 0

    def update(self, X: Tensor, dY: Tensor) -> None:
        B, T = X.shape[:2]
        if self.sharing == "expand":
            A = torch.einsum("nti,ntj->ij", X, X) / (B * T)
        else:
            a = X.sum(1) / T
            A = torch.einsum("ni,nj->ij", a, a) / B
        S = self.output_moment(dY)
        old = 0 if self.init == "first" and self.k == 0 else self.beta
        self.A = old * self.A + (1 - old) * A
        self.S = old * self.S + (1 - old) * S
        self.k += 1

    def output_moment(self, dY: Tensor) -> Tensor:
        """Return S of one batch, from dY, the gradients of the mean loss.

        `fisher` uses the gradients B dY of each example's loss; `official` uses the formula of the
        released code.
        """
        B, o = len(dY), dY.shape[-1]
        if self.g_scale == "fisher":
            g = B * dY
            g = g if self.sharing == "expand" else g.sum(1, keepdim=True)
            return torch.einsum("nti,ntj->ij", g, g) / B
        g = dY.reshape(-1, o) if self.sharing == "expand" else dY.mean(1)
        return g.T @ (g / len(g))

    def invert(self) -> None:
        correction = 1 - self.beta**self.k if self.init == "zero" else 1
        A, S = self.A / correction, self.S / correction
        p, o = len(A), len(S)
        I_p, I_o = torch.eye(p).double(), torch.eye(o).double()
        if self.rule == "eigen":
            self.P = torch.linalg.inv(torch.kron(S, A) + self.rho * torch.eye(o * p).double())
        else:
            pi = ((A.trace() / p) / (S.trace() / o)).sqrt().item()
            pi = min(max(pi, 1e-4), 1e4)
            left = torch.linalg.inv(S + self.rho**0.5 / pi * I_o)
            self.P = torch.kron(left, torch.linalg.inv(A + pi * self.rho**0.5 * I_p))

    def direction(self, G: Tensor) -> Tensor:
        return (self.P @ G.reshape(-1)).reshape(G.shape)


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    method: Callable[[int, int], Method],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    cov_interval: int,
    inv_interval: int,
    kl_clip: float | None,
) -> list[float]:
    """Train a float64 model in place, as `reference.train` does.

    Returns:
        The number by which the KL-clip multiplies the directions, for each step.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def recorder(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            output.retain_grad()
            calls[name] = args[0].detach(), output

        return hook

    for name, module in layers.items():
        module.register_forward_hook(recorder(name))
    methods: dict[tuple[str, int], Method] = {}
    m = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}
    factors = []
    for t, (x, y) in enumerate(batches):
        model.zero_grad()
        loss(model(x), y).backward()
        D: dict[str, list[Tensor]] = {}
        s = 0.0
        for name, module in layers.items():
            D[name] = []
            X, dY = rows(module, calls[name][0]), output_rows(module, calls[name][1].grad)
            for group, G in enumerate(gradient_matrices(module)):
                if (name, group) not in methods:
                    methods[name, group] = method(X[group].shape[1], dY[group].shape[2])
                layer_method = methods[name, group]
                if t % cov_interval == 0:
                    layer_method.update(X[group].reshape(*dY[group].shape[:2], -1), dY[group])
                if t % inv_interval == 0:
                    layer_method.invert()
                D[name].append(layer_method.direction(G))
                s += lr**2 * (D[name][-1] * G).sum().item()
        nu = 1.0 if kl_clip is None or s == 0 else min(1.0, (kl_clip / abs(s)) ** 0.5)
        factors.append(nu)
        direction = {parameter: parameter.grad for parameter in model.parameters()}
        for name, module in layers.items():
            matrix = nu * torch.cat(D[name])
            if module.bias is not None:
                direction[module.bias], matrix = matrix[:, -1], matrix[:, :-1]
            direction[module.weight] = matrix.reshape(module.weight.shape)
        with torch.no_grad():
            for parameter in model.parameters():
                decay = weight_decay * parameter
                m[parameter] = momentum * m[parameter] + direction[parameter] + decay
                parameter -= lr * m[parameter]
    return factors


def output_rows(module: nn.Module, dY: Tensor) -> list[Tensor]:
    """Return the output gradients `[B, T, o]` of each group."""
    if isinstance(module, nn.Linear):
        return [dY.reshape(len(dY), -1, dY.shape[-1])]
    return [
        channels.reshape(*channels.shape[:2], -1).transpose(1, 2)
        for channels in dY.chunk(module.groups, dim=1)
    ]
