"""The Gram matrix of a convolution's patches, computed from channel correlations without patches.

A kernel entry is a channel c and an offset i in the kernel (row and column). With stride and
dilation 1, the entry of the Gram matrix for the kernel entries (c, i) and (c', i') is
sum_y x[c, y+i] x[c', y+i'] over the output positions y. If y runs over all positions at which a
patch overlaps the image, the sum depends only on i' - i: it is R[c, c', i' - i], the correlation of
channel c with channel c' at this shift. A k x k kernel has k (2k - 1) shifts that do not point
upwards. The correlations at the other shifts are their transposes. One convolution of the image
with itself computes all these correlations, which give the blocks for all k^4 pairs of offsets. For
3 x 3 kernels, this takes 15/81 of the operations of X^T X.

The convolution has no output at some of these positions y. Their patches form lines along the four
sides of the image. The Gram matrices of these lines are computed in the same way, in one dimension,
and subtracted.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight


def patch_gram(x: Tensor, groups: int, kernel: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return `X^T X` of all patches, `[groups, p, p]`, for stride and dilation 1.

    Args:
        x: `[batch, channels, height, width]`, not smaller than the kernel.
        groups: Number of groups of channels.
        kernel: Height and width of the kernel.
        padding: Zeros added to each side, (vertical, horizontal).

    Returns:
        The Gram matrices; the order of the p entries is that of `F.unfold`.
    """
    (height, width), (vertical, horizontal) = kernel, padding
    gram = _toeplitz(_correlations(x, groups, kernel))
    # The patches that overlap the image only in its first or last n rows. They include the corners.
    for n in range(1, height - vertical):
        above, below = _line_grams((x[:, :, :n], x[:, :, -n:]), groups, width, width - 1)
        gram[:, :, -n:, :, :, -n:] -= above
        gram[:, :, :n, :, :, :n] -= below
    # The patches that overlap the image only in its first or last n columns.
    for n in range(1, width - horizontal):
        sides = (x[..., :n].transpose(2, 3), x[..., -n:].transpose(2, 3))
        left, right = (
            side.transpose(2, 3).transpose(5, 6)
            for side in _line_grams(sides, groups, height, vertical)
        )
        gram[:, :, :, -n:, :, :, -n:] -= left
        gram[:, :, :, :n, :, :, :n] -= right
    return gram.flatten(4).flatten(1, 3)


def _correlations(x: Tensor, groups: int, kernel: tuple[int, int]) -> Tensor:
    """Return R[c, c', d] = sum_z x[c, z] x[c', z + d], `[groups, C, C, kh, 2 kw - 1]`.

    The last two axes are the shift d: rows 0 to kh - 1, columns 1 - kw to kw - 1.
    """
    height, width = kernel
    size = x.shape[1], x.shape[1] // groups, height, 2 * width - 1
    geometry: Any = (1, (0, width - 1), 1, groups)  # torch annotates these as int, but takes pairs
    padded = F.pad(x, (0, 0, 0, height - 1))
    return conv2d_weight(padded, size, x, *geometry).unflatten(0, (groups, -1))


def _toeplitz(correlations: Tensor) -> Tensor:
    """Return R[c, c', i' - i] at index (c, i, c', i'), `[groups, C, kh, kw, C, kh, kw]`.

    `_correlations` returns one half of the shifts; the other half follows by transposition.
    """
    upwards = correlations[:, :, :, 1:].transpose(1, 2).flip(3, 4)
    both = torch.cat([upwards, correlations], 3)
    height, width = (n // 2 + 1 for n in both.shape[3:])
    windows = both.unfold(3, height, 1).unfold(4, width, 1)  # [groups, c, c', -i, -j, i', j']
    return windows.flip(3, 4).permute(0, 1, 3, 4, 2, 5, 6)


def _line_grams(strips: tuple[Tensor, ...], groups: int, kernel: int, padding: int) -> Tensor:
    """Return `X^T X` of the patches along each strip of the image.

    The result is `[strips, groups, C, n, kernel, C, n, kernel]` for strips
    `[batch, channels, n, length]`.
    """
    # -> [strips, groups, C, n, batch, length]
    lines = torch.stack(strips).unflatten(2, (groups, -1)).permute(0, 2, 3, 4, 1, 5)
    channels, n = lines.shape[2:4]
    lines = lines.flatten(0, 1).flatten(1, 2)
    # Join the lines of all images, with zeros between them, so that no shift by less than `kernel`
    # pixels pairs the pixels of two images.
    joined = F.pad(lines, (0, kernel - 1)).flatten(2)
    length = joined.shape[2]
    correlations = [joined[..., : length - d] @ joined[..., d:].mT for d in range(kernel)]
    gram = _toeplitz(torch.stack(correlations, -1).unsqueeze(-1)).squeeze(6).squeeze(3)
    # The patches that overlap only `end` pixels of the line, and for which there is no output.
    for end in range(1, kernel - padding):
        first = lines[..., :end].transpose(2, 3).flatten(1, 2)
        last = lines[..., -end:].transpose(2, 3).flatten(1, 2)
        shape = len(first), channels * n, end, channels * n, end
        gram[:, :, -end:, :, -end:] -= (first @ first.mT).view(shape)
        gram[:, :, :end, :, :end] -= (last @ last.mT).view(shape)
    return gram.reshape(len(strips), groups, channels, n, kernel, channels, n, kernel)
