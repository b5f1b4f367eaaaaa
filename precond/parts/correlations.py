"""The Gram matrix of a convolution's patches from its channels' correlations, without patches.

With stride and dilation 1, patch entries (c, i) and (c', i') at all positions y give sum_y x[c, y+i] x[c', y+i'].
Summed over every y at which a patch touches the image, this depends on i' - i alone: it is R[c, c', i' - i], the
correlation of channel c with c', shifted. So the k (2k - 1) shifts downwards (the others are their transposes), which
are one convolution of the image with itself, make all k^4 blocks: 15/81 of the operations of X^T X for 3 x 3 kernels.

Only, some of these y belong to no output: lines of patches along the four sides of the image. Their Gram matrices, made
in the same way in one dimension, are taken off.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight


def patch_gram(x: Tensor, groups: int, kernel: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """`X^T X` of all patches, `[groups, p, p]` with p in the order of `F.unfold`, for stride and dilation 1.

    Args:
        x: `[batch, channels, height, width]`, no smaller than the kernel.
        groups: Each sees its own channels.
        kernel: Its height and width.
        padding: Zeros added to each side, (vertical, horizontal).
    """
    (height, width), (vertical, horizontal) = kernel, padding
    gram = _toeplitz(_correlations(x, groups, kernel))
    for n in range(
        1, height - vertical
    ):  # lines of which n rows touch the image; they take the corners
        above, below = _line_grams((x[:, :, :n], x[:, :, -n:]), groups, width, width - 1)
        gram[:, :, -n:, :, :, -n:] -= above
        gram[:, :, :n, :, :, :n] -= below
    for n in range(1, width - horizontal):
        sides = (x[..., :n].transpose(2, 3), x[..., -n:].transpose(2, 3))
        left, right = (
            side.transpose(2, 3).transpose(5, 6)
            for side in _line_grams(sides, groups, height, vertical)
        )
        gram[:, :, :, -n:, :, :, -n:] -= left
        gram[:, :, :, :n, :, :, :n] -= right
    return gram.flatten(4).flatten(1, 3)  # the one copy


def _correlations(x: Tensor, groups: int, kernel: tuple[int, int]) -> Tensor:
    """R[c, c', d] = sum_z x[c, z] x[c', z + d], `[groups, C, C, kh, 2 kw - 1]` for d from (0, 1 - kw)."""
    height, width = kernel
    size = x.shape[1], x.shape[1] // groups, height, 2 * width - 1
    geometry: Any = (1, (0, width - 1), 1, groups)  # annotated as int, documented as pairs
    return conv2d_weight(F.pad(x, (0, 0, 0, height - 1)), size, x, *geometry).unflatten(
        0, (groups, -1)
    )


def _toeplitz(correlations: Tensor) -> Tensor:
    """R[c, c', i' - i] at (c, i, c', i'), `[groups, C, kh, kw, C, kh, kw]`, from the half that `_correlations` has."""
    upwards = correlations[:, :, :, 1:].transpose(1, 2).flip(3, 4)
    both = torch.cat([upwards, correlations], 3)
    height, width = (n // 2 + 1 for n in both.shape[3:])
    windows = both.unfold(3, height, 1).unfold(4, width, 1)  # [groups, c, c', -i, -j, i', j']
    return windows.flip(3, 4).permute(0, 1, 3, 4, 2, 5, 6)


def _line_grams(strips: tuple[Tensor, ...], groups: int, kernel: int, padding: int) -> Tensor:
    """Return `X^T X [strips, groups, C, n, kernel, C, n, kernel]` of the patches in lines, for all strips."""
    # [batch, channels, n, length] each -> [strips, groups, C, n, batch, length]
    lines = torch.stack(strips).unflatten(2, (groups, -1)).permute(0, 2, 3, 4, 1, 5)
    channels, n = lines.shape[2:4]
    lines = lines.flatten(0, 1).flatten(1, 2)
    # Zeros between the images: then a shift of the whole line shifts each of them.
    whole = F.pad(lines, (0, kernel - 1)).flatten(2)
    length = whole.shape[2]
    correlations = [whole[..., : length - d] @ whole[..., d:].mT for d in range(kernel)]
    gram = _toeplitz(torch.stack(correlations, -1).unsqueeze(-1)).squeeze(6).squeeze(3)
    for end in range(
        1, kernel - padding
    ):  # patches that touch `end` pixels of the line, but belong to no output
        first, last = (
            part.transpose(2, 3).flatten(1, 2) for part in (lines[..., :end], lines[..., -end:])
        )
        shape = len(first), channels * n, end, channels * n, end
        gram[:, :, -end:, :, -end:] -= (first @ first.mT).view(shape)
        gram[:, :, :end, :, :end] -= (last @ last.mT).view(shape)
    return gram.reshape(len(strips), groups, channels, n, kernel, channels, n, kernel)
