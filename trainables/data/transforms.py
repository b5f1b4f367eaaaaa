"""What worker processes do to an image: torchvision's v2 transforms, chosen by a recipe's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

CROPPED = 0.875  # of the shorter side: 224 of 256
MAGNITUDES = 10  # RandAugment's scale, 10 the strongest, as the papers count it
FILL = (124, 116, 104)  # where a transformed image shows nothing: ImageNet's mean


def train_transform(settings: Mapping[str, Any], size: int, square: bool) -> nn.Module:
    """An image to `[3, size, size]` uint8 by a recipe's settings, in the order of torchvision's reference recipes."""
    from torchvision.transforms import v2

    steps: list[nn.Module] = []
    if settings.get("random_resized_crop"):
        steps.append(v2.RandomResizedCrop(size, antialias=True))
    else:
        steps += _fitted(size, square)
    if padding := settings.get("crop_padding", 0):
        steps.append(v2.RandomCrop(size, padding=padding))
    if settings.get("flip"):
        steps.append(v2.RandomHorizontalFlip())
    if settings.get("trivial_augment"):
        steps.append(v2.TrivialAugmentWide())
    if settings.get("randaugment"):
        steps.append(NoisyRandAugment(*settings["randaugment"]))
    return v2.Compose([*steps, v2.PILToTensor()])


def test_transform(size: int, square: bool) -> nn.Module:
    """An image to `[3, size, size]` uint8 without randomness."""
    from torchvision.transforms import v2

    return v2.Compose([*_fitted(size, square), v2.PILToTensor()])


def _fitted(size: int, square: bool) -> list[nn.Module]:
    """To size x size: squares resized whole, others by their shorter side and cropped to the centre."""
    from torchvision.transforms import v2

    if square:
        return [v2.Resize((size, size), antialias=True)]
    return [v2.Resize(round(size / CROPPED), antialias=True), v2.CenterCrop(size)]


class NoisyRandAugment(nn.Module):
    """RandAugment with two of torchvision's operations, each image at a strength of its own.

    The strength is drawn from a normal distribution and cut to 0..10, as in timm's `rand-m9-mstd0.5`, whose operations
    are torchvision's but for their names' lists: it has Invert, SolarizeAdd and Posterize's other direction.

    Args:
        magnitude: Mean strength of 10.
        deviation: Its standard deviation.
    """

    STEPS = 10  # to a unit of strength

    def __init__(self, magnitude: float, deviation: float):
        from torchvision.transforms import v2

        super().__init__()
        self._mean, self._deviation = magnitude, deviation
        bins = MAGNITUDES * self.STEPS + 1
        self._at = [v2.RandAugment(2, strength, bins, fill=list(FILL)) for strength in range(bins)]

    def forward(self, image: Any) -> Any:
        """The image, twice transformed."""
        strength = torch.empty(()).normal_(self._mean, self._deviation).clamp(0, MAGNITUDES).item()
        return self._at[round(strength * self.STEPS)](image)
