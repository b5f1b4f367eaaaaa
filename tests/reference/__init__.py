"""Literal float64 transcriptions of the methods, with explicit patches and p x p matrices.

They are slow, because they treat one layer at a time and follow the equations of the papers. They
do not import the package that they test. Only `dense.py`, which converts factors, imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Preconditioner(Protocol):
    """A method for one weight matrix: updates a statistic, and computes P from it."""

    P: Tensor

    def update(self, X: Tensor) -> None: ...

    def invert(self) -> None: ...


def rows(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the rows of a layer's input, `[N, p]` for each group.

    If the layer has a bias, the last column contains ones.
    """
    if isinstance(module, nn.Linear):
        parts = [x.reshape(-1, x.shape[-1])]
    else:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode)
        # One matrix for each group of channels. The entries of a patch are in the order (channel,
        # kernel row, kernel column).
        parts = [
            F.unfold(channels, module.kernel_size, module.dilation, 0, module.stride)
            .transpose(1, 2)
            .flatten(0, 1)
            for channels in x.chunk(module.groups, dim=1)
        ]
    if module.bias is not None:
        parts = [torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], dim=1) for X in parts]
    return parts


def gradient_matrices(module: nn.Module) -> list[Tensor]:
    """Return G = [dL/dW, dL/db], `[o, p]` for each group."""
    G = module.weight.grad.reshape(len(module.weight), -1)
    if module.bias is not None:
        G = torch.cat([G, module.bias.grad.reshape(-1, 1)], dim=1)
    return list(G.chunk(getattr(module, "groups", 1)))


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    preconditioner: Callable[[str, int, int], Preconditioner],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    cov_interval: int,
    inv_interval: int,
) -> None:
    """Train a float64 model in place.

    Args:
        model: The model. Only its Linear and Conv2d layers are preconditioned.
        loss: A function of the outputs of the model and the targets.
        batches: Inputs and targets, one pair for each step.
        preconditioner: A function that returns the method for one group of a layer, from the
            layer's name, the index of the group, and p.
        lr: Learning rate (eta).
        momentum: Momentum (mu).
        weight_decay: Weight decay (lambda); its term is added after preconditioning.
        cov_interval: Number of steps between updates of the statistics (tau_cov).
        inv_interval: Number of steps between inversions (tau_inv).
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    inputs: dict[str, Tensor] = {}
    for name, module in layers.items():
        module.register_forward_pre_hook(
            lambda _, args, name=name: inputs.update({name: args[0].detach()})
        )
    methods: dict[tuple[str, int], Preconditioner] = {}
    m = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}

    for t, (x, y) in enumerate(batches):
        model.zero_grad()
        loss(model(x), y).backward()
        direction = {parameter: parameter.grad for parameter in model.parameters()}
        for name, module in layers.items():
            D = []
            for group, (X, G) in enumerate(
                zip(rows(module, inputs[name]), gradient_matrices(module), strict=True)
            ):
                if (name, group) not in methods:
                    methods[name, group] = preconditioner(name, group, X.shape[1])
                method = methods[name, group]
                if t % cov_interval == 0:
                    method.update(X)
                if t % inv_interval == 0:
                    method.invert()
                D.append(G @ method.P)
            D = torch.cat(D)
            if module.bias is not None:
                direction[module.bias], D = D[:, -1], D[:, :-1]
            direction[module.weight] = D.reshape(module.weight.shape)
        with torch.no_grad():
            for parameter in model.parameters():
                d = direction[parameter] + weight_decay * parameter
                m[parameter] = momentum * m[parameter] + d
                parameter -= lr * m[parameter]
