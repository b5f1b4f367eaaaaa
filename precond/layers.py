"""Linear and Conv2d as matrices: a layer's input as rows `[N, p]`, its gradient as `[groups, d_out, d_in]`.

The one convention everything relies on: weight row-major as `weight.reshape(d_out, -1)`, so a convolution's columns are
in the order (channel, kernel row, kernel column) of `F.unfold`, and the bias is the last column, whose input is 1.
A grouped convolution is `groups` layers of one shape, each seeing its own channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from precond.algorithm import LayerShape
from precond.parts.rows import ConvRows, LinearRows, Rows


@dataclass(frozen=True)
class Layer:
    """A Linear or Conv2d of a model, by name.

    Attributes:
        name: Its name in the model; the key of its state.
        module: The module.
        shape: Shape of its gradient matrix, per group.
        groups: Number of such matrices; 1 unless a grouped convolution.
        bias: Whether the bias is preconditioned with the weight (it is there and trains).
    """

    name: str
    module: nn.Linear | nn.Conv2d
    shape: LayerShape
    groups: int
    bias: bool

    @classmethod
    def of(cls, name: str, module: nn.Module) -> Layer | None:
        """The layer of a module, or None when it has no weight to precondition (another kind, or frozen)."""
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or not module.weight.requires_grad:
            return None
        bias = module.bias is not None and module.bias.requires_grad
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        d_in = module.weight[0].numel() + bias
        return cls(name, module, LayerShape(module.weight.shape[0] // groups, d_in), groups, bias)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters that are preconditioned together: `weight`, and `bias` where it trains."""
        bias = {"bias": self.module.bias} if self.bias and self.module.bias is not None else {}
        return {"weight": self.module.weight, **bias}

    @property
    def slot_names(self) -> list[str]:
        """A name for each group's matrix."""
        return (
            [self.name]
            if self.groups == 1
            else [f"{self.name}[{group}]" for group in range(self.groups)]
        )

    def views(self, stack: Tensor) -> dict[str, Tensor]:
        """Views of a stack `[groups, d_out, d_in]`, shaped as the parameters."""
        if not self.bias:
            return {"weight": stack.flatten(0, 1).view_as(self.module.weight)}
        weight = stack[..., :-1].flatten(0, 1).unflatten(1, self.module.weight.shape[1:])
        return {"weight": weight, "bias": stack[..., -1].flatten()}

    def rows(self, x: Tensor, dtype: torch.dtype) -> Rows:
        """An input of the module as rows, in the precision of the statistics."""
        x = x.detach().to(dtype)
        if isinstance(self.module, nn.Linear):
            x = x if x.dim() > 1 else x.unsqueeze(0)
            return LinearRows(x.flatten(0, -2), self.bias, examples=x.shape[0])
        module = self.module
        x = x if x.dim() == 4 else x.unsqueeze(0)
        padding = module.padding
        if module.padding_mode != "zeros" or isinstance(padding, str):
            # As the module does: `same` may pad the two sides differently, the other modes pad with values.
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            x, padding = F.pad(x, module._reversed_padding_repeated_twice, mode), (0, 0)
        geometry = (module.kernel_size, module.stride, padding, module.dilation)
        return ConvRows(x, self.bias, module.groups, *map(_pair, geometry))

    def output_gradients(self, gradient: Tensor, dtype: torch.dtype) -> Tensor:
        """A gradient of the batch-mean loss with respect to the module's output, as each example's own gradients.

        Returns:
            `[groups, batch, positions, d_out]`, times the batch size.
        """
        g = gradient.detach().to(dtype)
        if isinstance(self.module, nn.Linear):
            g = g if g.dim() > 1 else g.unsqueeze(0)
            return g.reshape(1, g.shape[0], -1, g.shape[-1]) * g.shape[0]
        g = g if g.dim() == 4 else g.unsqueeze(0)
        return g.flatten(2).unflatten(1, (self.groups, -1)).permute(1, 0, 3, 2) * g.shape[0]


def find_layers(model: nn.Module) -> list[Layer]:
    """Every layer of a model that can be preconditioned, in the model's order.

    A weight that two modules share (tied embeddings) is left out: its gradient is a sum over both, and the inputs of
    either describe only a part of it.
    """
    layers = [Layer.of(name, module) for name, module in plain_modules(model).items()]
    owners: dict[Tensor, int] = {}
    for parameter in (p for module in model.modules() for p in module.parameters(recurse=False)):
        owners[parameter] = owners.get(parameter, 0) + 1
    return [
        layer
        for layer in layers
        if layer and all(owners[p] == 1 for p in layer.parameters.values())
    ]


def plain_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by the name that it has without DistributedDataParallel and `torch.compile` around it, or a parent.

    So a state goes from one process to many and back. The wrappers themselves are left out.
    """
    names: dict[nn.Module, str] = {}
    _visit(model, "", names)
    return {name: module for module, name in names.items()}


def parameter_names(model: nn.Module) -> dict[Tensor, str]:
    """The name of every parameter, as `plain_modules` has it."""
    names: dict[Tensor, str] = {}
    for prefix, module in plain_modules(model).items():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            names.setdefault(parameter, name)
    return names


def _visit(module: nn.Module, name: str, names: dict[nn.Module, str]) -> None:
    """Add the names of a module and of its descendants; a module that occurs twice keeps its first name."""
    if (wrapped := _wrapped(module)) is not None:
        _visit(wrapped, name, names)
    elif module not in names:
        names[module] = name
        for key, child in module.named_children():
            _visit(child, f"{name}.{key}" if name else key, names)


def _wrapped(module: nn.Module) -> nn.Module | None:
    """Return the module inside a wrapper, or None if the module is not a wrapper."""
    if isinstance(module, DistributedDataParallel):
        return module.module
    return module._modules.get(
        "_orig_mod"
    )  # of torch.compile, whose class takes a second to import


def _pair(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
