"""Augmentation of whole batches on the device: pure functions, every image its own draw.

The draws come from a CPU generator, so that they are the same on every device; they are made for an epoch at once and
copied to the device once. Nothing here synchronises.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

AREA, ASPECT = (0.02, 0.33), (0.3, 3.3)  # of an erased rectangle, as in torchvision's RandomErasing
ATTEMPTS = 10  # to find one that fits, likewise


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Windows of the images' own size from the zero-padded images.

    Args:
        images: `[b, c, h, w]`, of any dtype.
        offsets: `[b, 2]` int64 in 0..2 padding, each window's top and left.
        padding: Pixels on every side.

    Returns:
        `[b, c, h, w]`.
    """
    height, width = images.shape[2:]
    # Every window of the padded image is a view; indexing copies the chosen ones, a row of pixels at a time.
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, offsets[:, 0], offsets[:, 1]]


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Images `[b, c, h, w]` mirrored left to right where `chosen`, `[b]` bool."""
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`[b, c, h, w]` uint8 to float32 `images * scale + shift`, with both `[c, 1, 1]`."""
    return images.float().mul_(scale).add_(shift)


def resize(images: Tensor, size: int) -> Tensor:
    """Float images `[b, c, h, w]` at size x size by bilinear interpolation, antialiased where they shrink."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=size < min(images.shape[2:]))


def draw_boxes(count: int, size: int, probability: float, generator: Generator) -> Tensor:
    """Rectangles to erase, `[count, 4]` int64: top, left, bottom, right; empty where an image is left whole.

    Area and aspect ratio (uniform in its logarithm) are drawn as torchvision's RandomErasing does: again until the
    rectangle fits, at most ten times.

    Args:
        count: Images.
        size: Their height and width.
        probability: That an image is erased.
        generator: Of the CPU.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, ATTEMPTS).uniform_(low, high, generator=generator)

    area = uniform(*AREA) * size**2
    ratio = uniform(math.log(ASPECT[0]), math.log(ASPECT[1])).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1).round().long()
    fits = (sides < size).all(-1)
    first = fits.int().argmax(1)  # of equal maxima, the first
    sides = sides[torch.arange(count), first]
    corners = (torch.rand(count, 2, generator=generator) * (size - sides + 1)).long()
    erased = (torch.rand(count, generator=generator) < probability) & fits.any(1)
    return torch.cat([corners, corners + sides * erased[:, None]], 1)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Normalised images `[b, c, h, w]` with zero, the mean, in each one's box of `[b, 4]` (`draw_boxes`)."""
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[2:])
    top, left, bottom, right = boxes.unsqueeze(-1).unbind(1)
    inside_rows = (rows >= top) & (rows < bottom)
    inside_columns = (columns >= left) & (columns < right)
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)
