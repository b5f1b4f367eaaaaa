"""Pure functions that augment a batch on the device, with different random numbers for each image.

The random numbers come from a CPU generator, so they are the same on every device. `DeviceData`
draws the numbers of an epoch together and copies them to the device once. The functions that
augment do not synchronise with the device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# Ranges of an erased rectangle's area (fraction of the image) and aspect ratio, as in torchvision.
AREA, ASPECT = (0.02, 0.33), (0.3, 3.3)
ATTEMPTS = 10  # to draw a rectangle that fits into the image


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Return windows `[b, c, h, w]` of the zero-padded images.

    Args:
        images: `[b, c, h, w]`, of any dtype.
        offsets: `[b, 2]` int64 from 0 to 2 * padding, the top and left of each window.
        padding: Pixels on every side.
    """
    height, width = images.shape[2:]
    # `unfold` returns views of all windows; indexing copies only one window per image.
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, offsets[:, 0], offsets[:, 1]]


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Return images `[b, c, h, w]`, mirrored left to right where `flipped`, `[b]` bool, is True."""
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return images `[b, c, h, w]` uint8 as float32 `images * scale + shift`.

    `scale` and `shift` are `[c, 1, 1]`.
    """
    return images.float().mul_(scale).add_(shift)


def resize(images: Tensor, size: int) -> Tensor:
    """Return float images, resized to `[b, c, size, size]` by bilinear interpolation.

    The interpolation is antialiased if the images shrink.
    """
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(
        images, size=(size, size), mode="bilinear", antialias=size < min(images.shape[2:])
    )


def draw_boxes(count: int, size: int, probability: float, generator: Generator) -> Tensor:
    """Return the rectangles to erase, as top, left, bottom and right, `[count, 4]` int64.

    The rectangle is empty for an image in which nothing is erased. As in torchvision's
    RandomErasing, the area and the aspect ratio (uniform in its logarithm) are drawn until the
    rectangle fits, at most ten times.

    Args:
        count: Number of images.
        size: Height and width of the images.
        probability: Probability that a rectangle is erased in an image.
        generator: A CPU generator.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, ATTEMPTS).uniform_(low, high, generator=generator)

    area = uniform(*AREA) * size**2
    ratio = uniform(math.log(ASPECT[0]), math.log(ASPECT[1])).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1).round().long()
    fits = (sides < size).all(-1)
    first = fits.int().argmax(1)  # the first attempt that fits
    sides = sides[torch.arange(count), first]
    corners = (torch.rand(count, 2, generator=generator) * (size - sides + 1)).long()
    erased = (torch.rand(count, generator=generator) < probability) & fits.any(1)
    return torch.cat([corners, corners + sides * erased[:, None]], 1)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Return normalised images `[b, c, h, w]`, zero (the mean) inside the boxes `[b, 4]`.

    `draw_boxes` describes the boxes.
    """
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[2:])
    top, left, bottom, right = boxes.unsqueeze(-1).unbind(1)
    inside_rows = (rows >= top) & (rows < bottom)
    inside_columns = (columns >= left) & (columns < right)
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)
