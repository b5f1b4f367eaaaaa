"""Linear and Conv2d as matrices: a layer's input as rows `[N, p]`, its gradient as `[groups, d_out, d_in]`.

The one convention everything relies on: weight row-major as `weight.reshape(d_out, -1)`, so a convolution's columns are
in the order (channel, kernel row, kernel column) of `F.unfold`, and the bias is the last column, whose input is 1.
A grouped convolution is `groups` layers of one shape, each seeing its own channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from precond.algorithm import LayerShape
from precond.statistics import Rows

UNFOLD_ELEMENTS = 1 << 24  # patches formed at a time for a Gram matrix: 64 MiB in float32


@dataclass(frozen=True)
class LinearRows:
    """Inputs of a Linear layer, `[batch, positions..., d_in]`, as `x [N, d_in]` without the bias column."""

    x: Tensor
    bias: bool
    examples: int

    @property
    def count(self) -> int:
        """Number of rows N."""
        return self.x.shape[0]

    def project(self, matrix: Tensor) -> Tensor:
        """`X M`, `[1, B, T, r]`."""
        return self._map(matrix[0]).view(1, self.examples, -1, matrix.shape[2])

    def example_means(self) -> Tensor:
        """Mean over positions, `[1, B, p]`."""
        means = self.x.view(self.examples, -1, self.x.shape[1]).mean(1)
        return (torch.cat([means, means.new_ones(self.examples, 1)], 1) if self.bias else means).unsqueeze(0)

    def total(self) -> Tensor:
        """`X^T 1`, `[1, p]`."""
        total = self.x.sum(0, keepdim=True)
        return torch.cat([total, total.new_full((1, 1), self.count)], 1) if self.bias else total

    def take(self, part: slice) -> LinearRows:
        """The rows of some examples."""
        x = self.x.view(self.examples, -1, self.x.shape[1])[part]
        return LinearRows(x.flatten(0, 1), self.bias, examples=x.shape[0])

    def example_gradients(self, output_gradients: Tensor) -> Tensor:
        """Sum over the positions of each example of g a^T, `[1, B, o, p]`."""
        g = output_gradients[0].mT
        weight = g @ self.x.view(self.examples, -1, self.x.shape[1])
        return (torch.cat([weight, g.sum(2, keepdim=True)], 2) if self.bias else weight).unsqueeze(0)

    def gram(self) -> Tensor:
        """`X^T X`, `[1, p, p]`."""
        gram = self.x.mT @ self.x
        if self.bias:
            sums = self.x.sum(0, keepdim=True)
            gram = torch.cat([gram, sums])
            gram = torch.cat([gram, torch.cat([sums, sums.new_full((1, 1), self.count)], 1).mT], 1)
        return gram.unsqueeze(0)

    def sketch(self, test_matrix: Tensor) -> Tensor:
        """`X^T (X Omega)`, `[1, p, r]`."""
        return self._products(self._map(test_matrix[0]))

    def sketch_columns(self, columns: Tensor) -> Tensor:
        """`X^T X[:, columns]`, `[1, p, r]`."""
        ids, width = columns[0], self.x.shape[1]
        y = self.x[:, ids.clamp(max=width - 1)]
        return self._products(y.masked_fill(ids == width, 1) if self.bias else y)

    def _map(self, matrix: Tensor) -> Tensor:
        return torch.addmm(matrix[-1], self.x, matrix[:-1]) if self.bias else self.x @ matrix

    def _products(self, y: Tensor) -> Tensor:
        products = self.x.mT @ y
        return (torch.cat([products, y.sum(0, keepdim=True)]) if self.bias else products).unsqueeze(0)


@dataclass(frozen=True)
class ConvRows:
    """Inputs of a Conv2d: every patch is a row, but patches are formed only for a Gram matrix, in chunks.

    Attributes:
        x: `[batch, channels, height, width]`, padded already where the padding is not symmetric zeros.
        padding: Zeros that the convolution adds to each side, (vertical, horizontal).
    """

    x: Tensor
    bias: bool
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def examples(self) -> int:
        """Number of images B."""
        return self.x.shape[0]

    @property
    def count(self) -> int:
        """Number of rows N: images times output positions."""
        height, width = self._output_size()
        return self.x.shape[0] * height * width

    def project(self, matrix: Tensor) -> Tensor:
        """`X M`, `[groups, B, T, r]`: a convolution with r filters, no patches."""
        return self._map(matrix).flatten(2).unflatten(1, (self.groups, -1)).permute(1, 0, 3, 2)

    def example_means(self) -> Tensor:
        """Mean over positions, `[groups, B, p]`."""
        return torch.cat([self._patches(x).mean(3) for x in self._chunks()], 1)

    def total(self) -> Tensor:
        """`X^T 1`, `[groups, p]`, from the patches of the images' sum."""
        total = self._patches(self.x.sum(0, keepdim=True)).sum((1, 3))
        if self.bias:
            total[:, -1] *= self.examples
        return total

    def take(self, part: slice) -> ConvRows:
        """The rows of some images."""
        return replace(self, x=self.x[part])

    def example_gradients(self, output_gradients: Tensor) -> Tensor:
        """Sum over the positions of each image of g a^T, `[groups, B, o, p]`, from its patches: take few at a time."""
        return output_gradients.mT @ self._patches(self.x).mT

    def gram(self) -> Tensor:
        """`X^T X`, `[groups, p, p]`, 2 N p^2 operations."""
        grams = []
        for x in self._chunks():
            columns = self._patches(x).transpose(1, 2).flatten(2)
            grams.append(columns @ columns.mT)
        return torch.stack(grams).sum(0)

    def sketch(self, test_matrix: Tensor) -> Tensor:
        """`X^T (X Omega)`, `[groups, p, r]`: two convolutions, no patches (ALGORITHMS.md 9b)."""
        return self._products(self._map(test_matrix))

    def sketch_columns(self, columns: Tensor) -> Tensor:
        """`X^T X[:, columns]`, `[groups, p, r]`: a column is one channel, shifted and strided."""
        area, per_group = self.kernel[0] * self.kernel[1], self.x.shape[1] // self.groups
        first = torch.arange(self.groups, device=columns.device).unsqueeze(1) * per_group
        channels = ((columns // area).clamp(max=per_group - 1) + first).view(-1)
        offsets = (columns % area).view(-1)
        y = self._shifted(channels, offsets // self.kernel[1], offsets % self.kernel[1])
        if self.bias:
            y.masked_fill_((columns == per_group * area).view(1, -1, 1, 1), 1)
        return self._products(y)

    def _shifted(self, channels: Tensor, row_offsets: Tensor, column_offsets: Tensor) -> Tensor:
        """What the kernel entries (channel, row, column) see at every output position, `[batch, entries, oh, ow]`."""
        height, width = self._output_size()
        rows = torch.arange(height, device=channels.device) * self.stride[0]
        cols = torch.arange(width, device=channels.device) * self.stride[1]
        rows = (row_offsets * self.dilation[0]).view(-1, 1, 1) + rows.view(1, -1, 1)
        cols = (column_offsets * self.dilation[1]).view(-1, 1, 1) + cols.view(1, 1, -1)
        vertical, horizontal = self.padding
        padded = F.pad(self.x, (horizontal, horizontal, vertical, vertical))
        return padded[:, channels.view(-1, 1, 1), rows, cols]

    def _products(self, y: Tensor) -> Tensor:
        """`X^T Y` for `Y [batch, groups * r, oh, ow]`: the weight gradient that the output gradient Y would give."""
        per_group = self.x.shape[1] // self.groups
        size = (y.shape[1], per_group, *self.kernel)
        geometry: Any = (self.stride, self.padding, self.dilation, self.groups)  # annotated as int, documented as pairs
        weight = conv2d_weight(self.x, size, y, *geometry)
        products = weight.reshape(self.groups, -1, per_group * self.kernel[0] * self.kernel[1]).mT
        if not self.bias:
            return products
        return torch.cat([products, y.sum((0, 2, 3)).view(self.groups, 1, -1)], 1)

    def _map(self, matrix: Tensor) -> Tensor:
        """`X M` as the map `[batch, groups * r, oh, ow]`."""
        filters, shift = matrix.mT, None
        if self.bias:
            filters, shift = filters[..., :-1], filters[..., -1].reshape(-1)
        weight = filters.reshape(-1, self.x.shape[1] // self.groups, *self.kernel)
        return F.conv2d(self.x, weight, shift, self.stride, self.padding, self.dilation, self.groups)

    def _chunks(self) -> tuple[Tensor, ...]:
        """The images, as many at a time as `UNFOLD_ELEMENTS` of patches allow."""
        height, width = self._output_size()
        patches_per_image = height * width * self.x.shape[1] * self.kernel[0] * self.kernel[1]
        return self.x.split(max(1, UNFOLD_ELEMENTS // patches_per_image))

    def _patches(self, x: Tensor) -> Tensor:
        """The patches of some images, `[groups, batch, p, positions]`."""
        patches = F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        patches = patches.unflatten(1, (self.groups, -1)).transpose(0, 1)
        if self.bias:
            ones = patches.new_ones(self.groups, patches.shape[1], 1, patches.shape[3])
            patches = torch.cat([patches, ones], 2)
        return patches

    def _output_size(self) -> tuple[int, int]:
        sizes = zip(self.x.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * pad - d * (k - 1) - 1) // s + 1 for n, k, s, pad, d in sizes)
        return height, width


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
        return [self.name] if self.groups == 1 else [f"{self.name}[{group}]" for group in range(self.groups)]

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
        return ConvRows(
            x=x,
            bias=self.bias,
            groups=module.groups,
            kernel=_pair(module.kernel_size),
            stride=_pair(module.stride),
            padding=_pair(padding),
            dilation=_pair(module.dilation),
        )

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
    layers = [Layer.of(name.replace("_orig_mod.", ""), module) for name, module in model.named_modules()]
    owners: dict[Tensor, int] = {}
    for parameter in (p for module in model.modules() for p in module.parameters(recurse=False)):
        owners[parameter] = owners.get(parameter, 0) + 1
    return [layer for layer in layers if layer and all(owners[p] == 1 for p in layer.parameters.values())]


def _pair(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
