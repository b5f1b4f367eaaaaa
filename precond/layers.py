"""Linear and Conv2d layers as matrices.

The input of a layer becomes a matrix of rows `[N, p]`, and the gradient of its parameters becomes
`[groups, d_out, d_in]`. The whole package relies on this convention: the weight matrix is
`weight.reshape(d_out, -1)`, so the columns of a convolution are in the order (channel, kernel row,
kernel column) of `F.unfold`; the bias is the last column, whose input is 1. A grouped convolution
is treated as `groups` layers of one shape, each with its part of the channels.
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
    """A Linear or Conv2d layer of a model.

    Attributes:
        name: The layer's name in the model; the key of its state.
        module: The module.
        shape: Shape of the gradient matrix, per group.
        groups: Number of gradient matrices; more than 1 only for a grouped convolution.
        bias: True if there is a trainable bias; it is preconditioned together with the weight.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    shape: LayerShape
    groups: int
    bias: bool

    @classmethod
    def of(cls, name: str, module: nn.Module) -> Layer | None:
        """Return the `Layer` for a module.

        Return None if the module is neither Linear nor Conv2d, or if its weight is frozen.
        """
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or not module.weight.requires_grad:
            return None
        bias = module.bias is not None and module.bias.requires_grad
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        d_in = module.weight[0].numel() + bias
        return cls(name, module, LayerShape(module.weight.shape[0] // groups, d_in), groups, bias)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters that are preconditioned together: `weight`, and `bias` if trainable."""
        bias = {"bias": self.module.bias} if self.bias and self.module.bias is not None else {}
        return {"weight": self.module.weight, **bias}

    @property
    def slot_names(self) -> list[str]:
        """The name of each group's matrix."""
        if self.groups == 1:
            return [self.name]
        return [f"{self.name}[{group}]" for group in range(self.groups)]

    def views(self, stack: Tensor) -> dict[str, Tensor]:
        """Return views of a stack `[groups, d_out, d_in]` with the shapes of the parameters."""
        if not self.bias:
            return {"weight": stack.flatten(0, 1).view_as(self.module.weight)}
        weight = stack[..., :-1].flatten(0, 1).unflatten(1, self.module.weight.shape[1:])
        return {"weight": weight, "bias": stack[..., -1].flatten()}

    def rows(self, x: Tensor, dtype: torch.dtype) -> Rows:
        """Return an input of the module as rows, in the dtype of the statistics."""
        x = x.detach().to(dtype)
        if isinstance(self.module, nn.Linear):
            x = x if x.dim() > 1 else x.unsqueeze(0)
            return LinearRows(x.flatten(0, -2), self.bias, examples=x.shape[0])
        module = self.module
        x = x if x.dim() == 4 else x.unsqueeze(0)
        padding = module.padding
        if module.padding_mode != "zeros" or isinstance(padding, str):
            # Pad as the module does: `same` may pad the two sides differently, and the modes other
            # than `zeros` pad with values of the input.
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            x, padding = F.pad(x, module._reversed_padding_repeated_twice, mode), (0, 0)
        geometry = (module.kernel_size, module.stride, padding, module.dilation)
        return ConvRows(x, self.bias, module.groups, *map(_pair, geometry))

    def examples(self, output: Tensor) -> int:
        """Return the number of examples of an output of the module, or of its gradient."""
        batched = output.dim() > 1 if isinstance(self.module, nn.Linear) else output.dim() == 4
        return output.shape[0] if batched else 1

    def output_gradients(
        self, gradient: Tensor, dtype: torch.dtype, examples: int | None = None
    ) -> Tensor:
        """Return the gradients of the examples' losses with respect to the module's output.

        Args:
            gradient: The gradient of the loss, a mean over the batch, with respect to the output.
            dtype: The dtype of the statistics.
            examples: The number of examples of which the loss is the mean. Default: the batch size.

        Returns:
            `[groups, batch, positions, d_out]`: `gradient` times the number of examples.
        """
        examples = self.examples(gradient) if examples is None else examples
        g = gradient.detach().to(dtype)
        if isinstance(self.module, nn.Linear):
            g = g if g.dim() > 1 else g.unsqueeze(0)
            return g.reshape(1, g.shape[0], -1, g.shape[-1]) * examples
        g = g if g.dim() == 4 else g.unsqueeze(0)
        return g.flatten(2).unflatten(1, (self.groups, -1)).permute(1, 0, 3, 2) * examples


def find_layers(model: nn.Module) -> list[Layer]:
    """Return the layers of a model that can be preconditioned, in the order of the model.

    Layers whose weight two modules share (tied embeddings) are omitted: the gradient is a sum over
    both modules, but the inputs of each module describe only one part of this sum.
    """
    layers = [Layer.of(name, module) for name, module in plain_modules(model).items()]
    uses: dict[Tensor, int] = {}
    for parameter in (p for module in model.modules() for p in module.parameters(recurse=False)):
        uses[parameter] = uses.get(parameter, 0) + 1
    return [
        layer for layer in layers if layer and all(uses[p] == 1 for p in layer.parameters.values())
    ]


def plain_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module by its name in the unwrapped model.

    The wrappers, DistributedDataParallel and `torch.compile`, are omitted, and so are their
    prefixes. A state of one process can therefore be loaded by several processes, and vice versa.
    """
    names: dict[nn.Module, str] = {}
    _visit(model, "", names)
    return {name: module for module, name in names.items()}


def parameter_names(model: nn.Module) -> dict[Tensor, str]:
    """Return the name of every parameter in the unwrapped model."""
    names: dict[Tensor, str] = {}
    for prefix, module in plain_modules(model).items():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            names.setdefault(parameter, name)
    return names


def _visit(module: nn.Module, name: str, names: dict[nn.Module, str]) -> None:
    """Add the names of a module and its descendants.

    A module that occurs twice keeps its first name.
    """
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
    # The wrapper of torch.compile. Its class is not imported, because that takes about a second.
    return module._modules.get("_orig_mod")


def _pair(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
