"""The inputs of Linear and Conv2d layers as rows of a matrix X that is never formed.

The rows a of one forward form a matrix X `[N, p]` for each group of a grouped convolution (`groups`
is 1 for all other layers). N is the number B of examples times the number T of positions that share
the weight. p includes the bias; the last column of X contains the ones for the bias.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from precond.parts.correlations import patch_gram

# Limit of patch elements that exist at the same time. They occupy 8 MiB in float32, which a CPU
# allocator can reuse. On a GPU, the limit is 32 times as high, to reduce the number of kernel
# launches.
UNFOLD_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class LinearRows:
    """Inputs `[batch, positions..., d_in]` of a Linear layer, flattened to `x: [N, d_in]`.

    `x` does not contain the column of ones for the bias.
    """

    x: Tensor
    bias: bool
    examples: int

    @property
    def count(self) -> int:
        """The number of rows N."""
        return self.x.shape[0]

    def project(self, matrix: Tensor) -> Tensor:
        """Return `X M`, `[1, B, T, r]`, for a matrix M `[1, p, r]`."""
        return self._map(matrix[0]).view(1, self.examples, -1, matrix.shape[2])

    def example_means(self) -> Tensor:
        """Return the mean over positions, `[1, B, p]`."""
        means = self.x.view(self.examples, -1, self.x.shape[1]).mean(1)
        if self.bias:
            means = torch.cat([means, means.new_ones(self.examples, 1)], 1)
        return means.unsqueeze(0)

    def total(self) -> Tensor:
        """Return the sum of the rows, `[1, p]`."""
        total = self.x.sum(0, keepdim=True)
        return torch.cat([total, total.new_full((1, 1), self.count)], 1) if self.bias else total

    def take(self, part: slice) -> LinearRows:
        """Return the rows of some examples."""
        x = self.x.view(self.examples, -1, self.x.shape[1])[part]
        return LinearRows(x.flatten(0, 1), self.bias, examples=x.shape[0])

    def example_gradients(self, output_gradients: Tensor) -> Tensor:
        """Return the sum of g a^T over the positions of each example, `[1, B, o, p]`."""
        g = output_gradients[0].mT
        gradients = g @ self.x.view(self.examples, -1, self.x.shape[1])
        if self.bias:
            gradients = torch.cat([gradients, g.sum(2, keepdim=True)], 2)
        return gradients.unsqueeze(0)

    def gram(self) -> Tensor:
        """Return `X^T X`, `[1, p, p]`."""
        gram = self.x.mT @ self.x
        if self.bias:
            sums = self.x.sum(0, keepdim=True)
            gram = torch.cat([gram, sums])
            gram = torch.cat([gram, torch.cat([sums, sums.new_full((1, 1), self.count)], 1).mT], 1)
        return gram.unsqueeze(0)

    def sketch(self, test_matrix: Tensor) -> Tensor:
        """Return `X^T (X Omega)`, `[1, p, r]`."""
        return self._products(self._map(test_matrix[0]))

    def sketch_columns(self, columns: Tensor) -> Tensor:
        """Return `X^T X[:, columns]`, `[1, p, r]`."""
        ids, width = columns[0], self.x.shape[1]
        y = self.x[:, ids.clamp(max=width - 1)]
        return self._products(y.masked_fill(ids == width, 1) if self.bias else y)

    def _map(self, matrix: Tensor) -> Tensor:
        return torch.addmm(matrix[-1], self.x, matrix[:-1]) if self.bias else self.x @ matrix

    def _products(self, y: Tensor) -> Tensor:
        # For y with few columns, y^T x takes a third of the time of x^T y with MKL.
        products = (y.mT @ self.x).mT
        if self.bias:
            products = torch.cat([products, y.sum(0, keepdim=True)])
        return products.unsqueeze(0)


@dataclass(frozen=True)
class ConvRows:
    """Inputs of a Conv2d layer: each patch is a row.

    Patches are formed only where a method needs them, and then in chunks.

    Attributes:
        x: `[batch, channels, height, width]`. Padding other than symmetric zeros is already
            applied.
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
        """The number of images B."""
        return self.x.shape[0]

    @property
    def count(self) -> int:
        """The number of rows N: images times output positions."""
        height, width = self._output_size()
        return self.x.shape[0] * height * width

    def project(self, matrix: Tensor) -> Tensor:
        """Return `X M`, `[groups, B, T, r]`, for a matrix M `[groups, p, r]`.

        It is computed by a convolution with r filters per group.
        """
        return self._map(matrix).flatten(2).unflatten(1, (self.groups, -1)).permute(1, 0, 3, 2)

    def example_means(self) -> Tensor:
        """Return the mean over positions, `[groups, B, p]`."""
        return torch.cat([self._patches(x).mean(3) for x in self._chunks()], 1)

    def total(self) -> Tensor:
        """Return the sum of the rows, `[groups, p]`, from the patches of the sum of the images."""
        total = self._patches(self.x.sum(0, keepdim=True)).sum((1, 3))
        if self.bias:
            total[:, -1] *= self.examples
        return total

    def take(self, part: slice) -> ConvRows:
        """Return the rows of some images."""
        return replace(self, x=self.x[part])

    def example_gradients(self, output_gradients: Tensor) -> Tensor:
        """Return the sum of g a^T over the positions of each image, `[groups, B, o, p]`.

        This forms the patches of all images at once. Call `take` first to limit their number.
        """
        return output_gradients.mT @ self._patches(self.x).mT

    def gram(self) -> Tensor:
        """Return `X^T X`, `[groups, p, p]`.

        This takes 2 N p^2 operations, or fewer if `patch_gram` computes it without patches.
        """
        if not self._correlates():
            return torch.stack([_gram(self._patches(x)) for x in self._chunks()]).sum(0)
        gram = patch_gram(self.x, self.groups, self.kernel, self.padding)
        if not self.bias:
            return gram
        total = self.total().unsqueeze(1)
        return torch.cat([torch.cat([gram, total[..., :-1]], 1), total.mT], 2)

    def sketch(self, test_matrix: Tensor) -> Tensor:
        """Return `X^T (X Omega)`, `[groups, p, r]`, by two convolutions without patches."""
        # On a CPU, with the default memory format, both convolutions copy x into blocks of 8
        # channels, and pad the r filters to 16.
        if self.x.device.type == "cpu":
            rows = replace(self, x=self.x.contiguous(memory_format=torch.channels_last))
            return rows._products(rows._map(test_matrix))
        return self._products(self._map(test_matrix))

    def sketch_columns(self, columns: Tensor) -> Tensor:
        """Return `X^T X[:, columns]`, `[groups, p, r]`.

        A column of X is a shifted and strided channel, so no patches are formed.
        """
        area, per_group = self.kernel[0] * self.kernel[1], self.x.shape[1] // self.groups
        first = torch.arange(self.groups, device=columns.device).unsqueeze(1) * per_group
        channels = ((columns // area).clamp(max=per_group - 1) + first).view(-1)
        offsets = (columns % area).view(-1)
        extract = self._sliced if self.x.device.type == "cpu" else self._picked
        y = extract(channels, offsets)
        if self.bias:
            y.masked_fill_((columns == per_group * area).view(1, -1, 1, 1), 1)
        return self._products(y)

    def _sliced(self, channels: Tensor, offsets: Tensor) -> Tensor:
        """Return the pixels under the kernel entries (channel, offset), by copies of slices.

        The result is `[batch, entries, oh, ow]`.
        """
        y = self.x.new_zeros(self.x.shape[0], len(channels), *self._output_size())
        entries = zip(channels.tolist(), offsets.tolist(), strict=True)
        for entry, (channel, offset) in enumerate(entries):
            places = zip(divmod(offset, self.kernel[1]), self.dilation, self.padding, strict=True)
            starts = [position * dilation - pad for position, dilation, pad in places]
            axes = map(_overlap, self.x.shape[2:], y.shape[2:], self.stride, starts)
            (rows, from_rows), (cols, from_cols) = axes
            y[:, entry, rows, cols] = self.x[:, channel, from_rows, from_cols]
        return y

    def _picked(self, channels: Tensor, offsets: Tensor) -> Tensor:
        """Return the same result as `_sliced`, by a convolution with one-hot filters.

        This needs few kernel launches, and the host does not read `channels` and `offsets`.
        """
        one_hot = F.one_hot(offsets, self.kernel[0] * self.kernel[1])
        filters = one_hot.to(self.x.dtype).view(-1, 1, *self.kernel)
        x = self.x.index_select(1, channels)
        return F.conv2d(x, filters, None, self.stride, self.padding, self.dilation, len(filters))

    def _products(self, y: Tensor) -> Tensor:
        """Return `X^T Y` for `Y [batch, groups * r, oh, ow]`.

        This is the gradient of the convolution's weight if Y is the gradient of its output.
        """
        per_group = self.x.shape[1] // self.groups
        size = (y.shape[1], per_group, *self.kernel)
        # torch annotates these as int, but takes pairs.
        geometry: Any = self.stride, self.padding, self.dilation, self.groups
        weight = conv2d_weight(self.x, size, y, *geometry)
        products = weight.reshape(self.groups, -1, per_group * self.kernel[0] * self.kernel[1]).mT
        if not self.bias:
            return products
        return torch.cat([products, y.sum((0, 2, 3)).view(self.groups, 1, -1)], 1)

    def _map(self, matrix: Tensor) -> Tensor:
        """Return `X M` as a feature map `[batch, groups * r, oh, ow]`."""
        filters, shift = matrix.mT, None
        if self.bias:
            filters, shift = filters[..., :-1], filters[..., -1].reshape(-1)
        weight = filters.reshape(-1, self.x.shape[1] // self.groups, *self.kernel)
        return F.conv2d(
            self.x, weight, shift, self.stride, self.padding, self.dilation, self.groups
        )

    def _correlates(self) -> bool:
        """Return True if `patch_gram` is applicable and cheaper than forming the patches."""
        fits = all(n >= k for n, k in zip(self.x.shape[2:], self.kernel, strict=True))
        return self.stride == self.dilation == (1, 1) and self.kernel != (1, 1) and fits

    def _chunks(self) -> tuple[Tensor, ...]:
        """Split the images into chunks whose patches stay below the limit of elements."""
        height, width = self._output_size()
        patches_per_image = height * width * self.x.shape[1] * self.kernel[0] * self.kernel[1]
        limit = UNFOLD_ELEMENTS * (1 if self.x.device.type == "cpu" else 32)
        return self.x.split(max(1, limit // patches_per_image))

    def _patches(self, x: Tensor) -> Tensor:
        """Return the patches of some images, `[groups, batch, p, positions]`."""
        if self.kernel == (1, 1) and self.padding == (0, 0):
            patches = x[:, :, :: self.stride[0], :: self.stride[1]].flatten(2)
        else:
            patches = F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        patches = patches.unflatten(1, (self.groups, -1)).transpose(0, 1)
        if self.bias:
            ones = patches.new_ones(self.groups, patches.shape[1], 1, patches.shape[3])
            patches = torch.cat([patches, ones], 2)
        return patches

    def _output_size(self) -> tuple[int, int]:
        sizes = zip(
            self.x.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
        )
        height, width = ((n + 2 * pad - d * (k - 1) - 1) // s + 1 for n, k, s, pad, d in sizes)
        return height, width


Rows = LinearRows | ConvRows


def _gram(patches: Tensor) -> Tensor:
    """Return the sum of a a^T, `[groups, p, p]`, for patches `[groups, batch, p, positions]`."""
    # With many positions, the products of single images take less memory than a copy of the
    # patches.
    if patches.shape[3] >= patches.shape[2]:
        return (patches @ patches.mT).sum(1)
    columns = patches.transpose(1, 2).flatten(2)
    return columns @ columns.mT


def _overlap(size: int, out: int, step: int, start: int) -> tuple[slice, slice]:
    """Return the outputs y with 0 <= start + step y < size, and the pixels start + step y."""
    first = max(0, -(start // step))
    last = min(out - 1, (size - 1 - start) // step)
    begin = start + step * first
    pixels = slice(begin, max(begin, start + step * last + 1), step)
    return slice(first, max(first, last + 1)), pixels
