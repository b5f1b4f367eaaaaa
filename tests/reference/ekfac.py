"""EKFAC (George et al. 2018) for one weight matrix, with the explicit gradient of each example."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from reference import gradient_matrices, rows

# The calls of a layer in one backward: pairs of a [B, T, p] and g [B, T, o], where g is the
# gradient of each example's loss.
Calls = list[tuple[Tensor, Tensor]]


class EKFAC:
    """D = U [(U^T G V) / (S + rho)] V^T."""

    def __init__(self, *, beta: float, rho: float, second_moment: str):
        self.beta, self.rho, self.second_moment = beta, rho, second_moment

    def refresh(self, calls: Calls) -> None:
        """Compute U and V from this batch, and set S = l k^T."""
        A = torch.cat([a.flatten(0, 1) for a, _ in calls])
        g = torch.cat([g.flatten(0, 1) for _, g in calls])
        k, self.V = torch.linalg.eigh(A.T @ A / len(A))
        l, self.U = torch.linalg.eigh(g.T @ g / len(calls[0][0]))
        self.S = torch.outer(l.clamp(min=0), k.clamp(min=0))

    def direction(self, G: Tensor, calls: Calls) -> Tensor:
        """Update S, and return D."""
        if self.second_moment == "per_example":
            S = example_squares(calls, self.U, self.V)
        else:
            S = len(calls[0][0]) * (self.U.T @ G @ self.V) ** 2
        self.S = self.beta * self.S + (1 - self.beta) * S
        return self.U @ ((self.U.T @ G @ self.V) / (self.S + self.rho)) @ self.V.T


def example_squares(calls: Calls, U: Tensor, V: Tensor) -> Tensor:
    """Return (1/B) sum_n (U^T G_n V)^.2 with G_n = sum_t g a^T over positions and calls."""
    squares = []
    for n in range(len(calls[0][0])):
        G_n = sum(g[n].T @ a[n] for a, g in calls)
        squares.append((U.T @ G_n @ V) ** 2)
    return torch.stack(squares).mean(0)


class Watch:
    """A record of inputs and output gradients of all calls of all layers since the last `clear`."""

    def __init__(self, model: nn.Module):
        self.layers = {
            n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))
        }
        self.calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.layers}
        for name, module in self.layers.items():
            module.register_forward_hook(
                lambda _, args, output, name=name: self._watch(name, args[0], output)
            )

    def _watch(self, name: str, x: Tensor, output: Tensor) -> None:
        output.register_hook(lambda g: self.calls[name].append((x.detach(), len(g) * g)))

    def clear(self) -> None:
        """Discard all calls."""
        for calls in self.calls.values():
            calls.clear()

    def groups(self) -> Iterable[tuple[str, int, nn.Module, Calls]]:
        """Yield the name, group, module and calls of each group of each layer."""
        for name, module in self.layers.items():
            groups = getattr(module, "groups", 1)
            calls: list[Calls] = [[] for _ in range(groups)]
            for x, g in self.calls[name]:
                if isinstance(module, nn.Conv2d):
                    g = g.flatten(2).transpose(1, 2)
                else:
                    g = g.reshape(len(g), -1, g.shape[-1])
                pairs = zip(rows(module, x), g.chunk(groups, dim=-1), strict=True)
                for group, (a, part) in enumerate(pairs):
                    calls[group].append((a.reshape(len(x), -1, a.shape[1]), part))
            for group in range(groups):
                yield name, group, module, calls[group]


def directions(
    watch: Watch, direction: Callable[[str, int, Tensor, Calls], Tensor]
) -> dict[Tensor, Tensor]:
    """Return the directions of all layers, by parameter."""
    matrices: dict[str, list[Tensor]] = {name: [] for name in watch.layers}
    for name, group, module, calls in watch.groups():
        matrices[name].append(direction(name, group, gradient_matrices(module)[group], calls))
    result = {}
    for name, module in watch.layers.items():
        D = torch.cat(matrices[name])
        if module.bias is not None:
            result[module.bias], D = D[:, -1], D[:, :-1]
        result[module.weight] = D.reshape(module.weight.shape)
    return result


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    basis_interval: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    **settings: object,
) -> None:
    """Train a float64 model in place, by SGD with EKFAC directions for Linear and Conv2d layers."""
    watch = Watch(model)
    methods: dict[tuple[str, int], EKFAC] = {}
    m = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}
    for t, (x, y) in enumerate(batches):
        model.zero_grad()
        watch.clear()
        loss(model(x), y).backward()

        def direction(name: str, group: int, G: Tensor, calls: Calls, t: int = t) -> Tensor:
            method = methods.setdefault((name, group), EKFAC(**settings))
            if t % basis_interval == 0:
                method.refresh(calls)
            return method.direction(G, calls)

        gradients = {parameter: parameter.grad for parameter in model.parameters()}
        D = gradients | directions(watch, direction)
        with torch.no_grad():
            for parameter in model.parameters():
                m[parameter] = momentum * m[parameter] + D[parameter] + weight_decay * parameter
                parameter -= lr * m[parameter]
