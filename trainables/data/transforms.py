"""torchvision's v2 transforms of an image and of a batch, selected by a trial's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

CROPPED = 0.875  # the crop's share of the shorter side, as 224 of 256 pixels
MAGNITUDES = 10  # the largest magnitude of RandAugment in the papers
FILL = (124, 116, 104)  # ImageNet's mean, for pixels outside a transformed image


def train_transform(settings: Mapping[str, Any], size: int, square: bool) -> nn.Module:
    """Return a transform that augments an image and returns it as `[3, size, size]` uint8.

    The order is that of torchvision's reference recipes.
    """
    from torchvision.transforms import v2

    steps: list[nn.Module] = []
    if settings.get("random_resized_crop"):
        steps.append(v2.RandomResizedCrop(size, antialias=True))
    else:
        steps += _resize_and_crop(size, square)
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
    """Return a transform of an image to `[3, size, size]` uint8 without randomness."""
    from torchvision.transforms import v2

    return v2.Compose([*_resize_and_crop(size, square), v2.PILToTensor()])


def _resize_and_crop(size: int, square: bool) -> list[nn.Module]:
    """Return transforms that resize square images, and resize and crop other images."""
    from torchvision.transforms import v2

    if square:
        return [v2.Resize((size, size), antialias=True)]
    return [v2.Resize(round(size / CROPPED), antialias=True), v2.CenterCrop(size)]


class NoisyRandAugment(nn.Module):
    """RandAugment with two operations per image and a random magnitude.

    The magnitude is drawn for each image from a normal distribution and clamped to 0..10, as in
    timm's `rand-m9-mstd0.5`. The operations are those of torchvision. timm's list differs: it also
    contains Invert and SolarizeAdd, and its Posterize has the opposite direction.

    Args:
        magnitude: Mean of the magnitude, out of 10.
        deviation: Standard deviation of the magnitude.
    """

    STEPS = 10  # the resolution of the magnitude is 1 / STEPS

    def __init__(self, magnitude: float, deviation: float):
        from torchvision.transforms import v2

        super().__init__()
        self._mean, self._deviation = magnitude, deviation
        bins = MAGNITUDES * self.STEPS + 1
        self._transforms = [v2.RandAugment(2, i, bins, fill=list(FILL)) for i in range(bins)]

    def forward(self, image: Any) -> Any:
        """Return the image after two random operations."""
        magnitude = torch.empty(()).normal_(self._mean, self._deviation).clamp(0, MAGNITUDES).item()
        return self._transforms[round(magnitude * self.STEPS)](image)


class Mixer:
    """Mix the images and labels of a batch by Mixup or CutMix.

    With both, one of the two is drawn for each batch.

    Args:
        settings: The trial's settings; `mixup` and `cutmix` are the alpha of each method.
        classes: Number of classes.
    """

    def __init__(self, settings: Mapping[str, Any], classes: int):
        self._mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        if settings.get("mixup") or settings.get("cutmix"):
            from torchvision.transforms import v2

            kinds = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
            mixes = [
                kinds[name](alpha=settings[name], num_classes=classes)
                for name in kinds
                if settings.get(name)
            ]
            self._mix = mixes[0] if len(mixes) == 1 else v2.RandomChoice(mixes)

    def __call__(self, inputs: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return the mixed batch.

        Args:
            inputs: `[batch, channels, height, width]`.
            labels: `[batch]` int64.
            seed: Determines the method, the pairs of images, the shares and the boxes, which are
                the same on every device.

        Returns:
            Mixed inputs, and labels as probabilities `[batch, classes]`; the arguments if neither
            method is set.
        """
        if self._mix is None:
            return inputs, labels
        # The transforms draw from the global CPU generator, which the model also uses.
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            return self._mix(inputs, labels)
        finally:
            torch.set_rng_state(state)
