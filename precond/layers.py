"""Linear and Conv2d layers as matrices.

The input of a layer becomes a matrix of rows `[N, p]`, and the gradient of its parameters becomes
`[groups, d_out, d_in]`. The whole package relies on this convention: the weight matrix is
`weight.reshape(d_out, -1)`, so the columns of a convolution are in the order (channel, kernel row,
kernel column) of `F.unfold`; the bias is the last column, whose input is 1. A grouped convolution
is treated as `groups` layers of one shape, each with its part of the channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from precond.algorithm import LayerShape
from precond.parts.rows import ConvRows, LinearRows, Rows
from precond.reasons import FROZEN, KINDS, NOT_GIVEN, UNCALLED, reads_weights, reason_to_skip


@dataclass(frozen=True)
class Layer:
    """A Linear or Conv2d layer of a model.

    Attributes:
        name: The layer's name in the model; the key of its state.
        module: The module.
        shape: Shape of the gradient matrix, per group.
        groups: Number of gradient matrices; more than 1 only for a grouped convolution.
        bias: True if there is a trainable bias; it is preconditioned together with the weight.
        parameters: The parameters that are preconditioned together: `weight`, and `bias` if it is
            trained. They remain the same objects if the module computes its weight from them later,
            as after pruning.
        batch_first: False if the inputs are `[positions, batch, d_in]`, as a module such as
            `nn.MultiheadAttention` declares; None without a declaration (see `_batch_axes`).
    """

    name: str
    module: nn.Linear | nn.Conv2d
    shape: LayerShape
    groups: int
    bias: bool
    parameters: Mapping[str, Tensor] = field(repr=False, compare=False)
    batch_first: bool | None = None

    @classmethod
    def of(
        cls,
        name: str,
        module: nn.Linear | nn.Conv2d,
        bias: bool | None = None,
        batch_first: bool | None = None,
    ) -> Self:
        """Return the layer of a module; `bias` is True if the bias is trained."""
        bias = module.bias is not None if bias is None else bias
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        shape = LayerShape(module.weight.shape[0] // groups, module.weight[0].numel() + bias)
        parameters: dict[str, Tensor] = {"weight": module.weight}
        if bias and module.bias is not None:
            parameters["bias"] = module.bias
        return cls(name, module, shape, groups, bias, parameters, batch_first)

    @property
    def weight(self) -> Tensor:
        """The weight, a parameter of the optimizer."""
        return self.parameters["weight"]

    @property
    def slot_names(self) -> list[str]:
        """The name of each group's matrix."""
        if self.groups == 1:
            return [self.name]
        return [f"{self.name}[{group}]" for group in range(self.groups)]

    def views(self, stack: Tensor) -> dict[str, Tensor]:
        """Return views of a stack `[groups, d_out, d_in]` with the shapes of the parameters."""
        if not self.bias:
            return {"weight": stack.flatten(0, 1).view_as(self.weight)}
        weight = stack[..., :-1].flatten(0, 1).unflatten(1, self.weight.shape[1:])
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


def find_layers(
    model: nn.Module, trained: Collection[Tensor] | None = None
) -> tuple[list[Layer], dict[str, str]]:
    """Return the layers of a model that can be preconditioned, and the reasons for the others.

    Layers whose weight two modules share (tied embeddings) are omitted: the gradient is a sum over
    both modules, but the inputs of each module describe only one part of this sum.

    Args:
        model: The model.
        trained: The parameters that are trained. Default: those that require a gradient.

    Returns:
        The layers in the order of the model. For each other module that is a Linear or a Conv2d, or
        that has trainable parameters, the reason why it is not preconditioned.
    """
    modules = plain_modules(model)
    owned = [p for module in modules.values() for p in module.parameters(recurse=False)]
    if trained is None:
        trained = {p for p in owned if p.requires_grad}
    uses: Mapping[Tensor, int] = Counter[Tensor](owned)
    axes, outputs = _batch_axes(model), uncalled(model)
    layers, skipped = [], {}
    for name, module in modules.items():
        if reason := reason_to_skip(module, trained, uses):
            if isinstance(module, KINDS) or any(p in trained for p in module.parameters(False)):
                untrained = reason in (FROZEN, NOT_GIVEN)
                skipped[name] = outputs.get(name, reason) if untrained else reason
        else:
            bias = module.bias is not None and module.bias in trained
            layers.append(Layer.of(name, module, bias, axes.get(module)))  # type: ignore[arg-type]
    return layers, skipped


def uncalled(model: nn.Module) -> dict[str, str]:
    """Return the layers whose forward is never called because their parent reads their weights.

    These are the output projections of `nn.MultiheadAttention`, by name, each with the reason.
    """
    parents = {name: m for name, m in plain_modules(model).items() if reads_weights(m)}
    return {f"{name}.out_proj".lstrip("."): UNCALLED for name in parents}


def _batch_axes(model: nn.Module) -> dict[nn.Module, bool | None]:
    """Return the value of `batch_first` that applies to each module, or None without a declaration.

    Modules such as `nn.MultiheadAttention` declare it by an attribute `batch_first`. The value
    applies to all modules with the same parent, and to the modules inside them, unless they declare
    another value. If a module has the attribute `batch_first_inside`, its value applies to the
    modules inside.
    """
    declared: dict[nn.Module, bool | None] = {}

    def visit(module: nn.Module, inherited: bool | None) -> None:
        flags = [getattr(part, "batch_first", None) for part in (module, *module.children())]
        flag = next((flag for flag in flags if isinstance(flag, bool)), inherited)
        declared[module] = flag
        inside = getattr(module, "batch_first_inside", flag)
        for child in module.children():
            if child not in declared:
                visit(child, inside)

    visit(model, None)
    return declared


def default_batch_first(model: nn.Module) -> bool | None:
    """Return the default of `batch_first` for layers without a declaration.

    The default is None (unknown) if any module of the model has `batch_first=False`, else True.
    """
    flags = [getattr(module, "batch_first", None) for module in model.modules()]
    return None if any(flag is False for flag in flags) else True


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
    return getattr(module, "_orig_mod", None)


def _pair(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
