"""STEVE for one weight matrix: Algorithm 1, with the options for what the paper leaves open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from reference.ekfac import Calls, Watch, directions, example_squares


class STEVE:
    """Adam with the moments m and v of U^T G V."""

    def __init__(
        self,
        *,
        reduce: bool,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        bias_correction: str = "adam",
        second_moment: str = "minibatch",
        on_refresh: str = "reset",
        factor_ema: float | None = None,
    ):
        self.reduce, self.betas, self.eps = reduce, betas, eps
        self.bias_correction, self.second_moment = bias_correction, second_moment
        self.on_refresh, self.factor_ema = on_refresh, factor_ema
        self.refreshes = 0

    def refresh(self, calls: Calls) -> None:
        """Compute the bases (line 17), and change the moments as `on_refresh` requires."""
        if self.reduce:
            a = torch.cat([a.mean(1) for a, _ in calls])
            g = torch.cat([g.sum(1) for _, g in calls])
        else:
            a = torch.cat([a.flatten(0, 1) for a, _ in calls])
            g = torch.cat([g.flatten(0, 1) for _, g in calls])
        A, S = a.T @ a / len(a), g.T @ g / len(g)
        if self.factor_ema is not None and self.refreshes:
            # The weight of the new value in a bias-corrected average.
            weight = (1 - self.factor_ema) / (1 - self.factor_ema ** (self.refreshes + 1))
            A, S = (1 - weight) * self.A + weight * A, (1 - weight) * self.S + weight * S
        self.A, self.S = A, S
        U, V = torch.linalg.eigh(S)[1], torch.linalg.eigh(A)[1]
        if self.refreshes == 0 or self.on_refresh == "reset":
            self.m = torch.zeros(len(U), len(V), dtype=torch.float64)
            self.v = torch.zeros_like(self.m)
            self.c_m = self.c_v = 0
        else:
            R, Q = U.T @ self.U, V.T @ self.V
            self.m = R @ self.m @ Q.T
            if self.on_refresh == "rotate_m":
                self.v = (1 - self.betas[1]) * (self.m / (1 - self.betas[0] ** self.c_m)) ** 2
                self.c_v = 1
            elif self.on_refresh == "rotate_mv":
                self.v = (R * R) @ self.v @ (Q * Q).T
        self.U, self.V = U, V
        self.refreshes += 1

    def step(self, G: Tensor, calls: Calls) -> Tensor:
        """Update the moments, and return U [m^ / (sqrt(v^) + eps)] V^T."""
        b1, b2 = self.betas
        rotated = self.U.T @ G @ self.V
        square = rotated**2
        if self.second_moment == "per_example":
            square = example_squares(calls, self.U, self.V)
        self.m = b1 * self.m + (1 - b1) * rotated
        self.v = b2 * self.v + (1 - b2) * square
        self.c_m, self.c_v = self.c_m + 1, self.c_v + 1
        correction_m, correction_v = 1 - b1**self.c_m, 1 - b2**self.c_v
        if self.bias_correction == "paper":
            correction_m, correction_v = math.sqrt(correction_m), math.sqrt(correction_v)
        ratio = (self.m / correction_m) / ((self.v / correction_v).sqrt() + self.eps)
        return self.U @ ratio @ self.V.T


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    basis_interval: int,
    lr: float,
    weight_decay: float = 0.0,
    fallback: str = "adam",
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    **settings: object,
) -> None:
    """Train a float64 model in place; parameters outside the layers follow Adam or SGD."""
    watch = Watch(model)
    methods: dict[tuple[str, int], STEVE] = {}
    moments: dict[Tensor, tuple[Tensor, Tensor]] = {}
    for t, (x, y) in enumerate(batches):
        model.zero_grad()
        watch.clear()
        loss(model(x), y).backward()

        def direction(name: str, group: int, G: Tensor, calls: Calls, t: int = t) -> Tensor:
            linear = isinstance(watch.layers[name], nn.Linear)
            method = methods.setdefault(
                (name, group), STEVE(reduce=linear, betas=betas, eps=eps, **settings)
            )
            if t % basis_interval == 0:
                method.refresh(calls)
            return method.step(G, calls)

        D = directions(watch, direction)
        for parameter in model.parameters():
            if parameter not in D and fallback == "sgd":
                D[parameter] = parameter.grad
            elif parameter not in D:
                m, v = moments.get(
                    parameter, (torch.zeros_like(parameter.grad), torch.zeros_like(parameter.grad))
                )
                m = betas[0] * m + (1 - betas[0]) * parameter.grad
                v = betas[1] * v + (1 - betas[1]) * parameter.grad**2
                moments[parameter] = m, v
                m_mean, v_mean = m / (1 - betas[0] ** (t + 1)), v / (1 - betas[1] ** (t + 1))
                D[parameter] = m_mean / (v_mean.sqrt() + eps)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 1 - lr * weight_decay
                parameter -= lr * D[parameter]
