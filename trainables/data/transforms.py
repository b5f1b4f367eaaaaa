"""torchvision's v2 transforms, chosen by a recipe's settings: of an image in a worker process, and of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

CROPPED = 0.875  # of the shorter side: 224 of 256
MAGNITUDES = 10  # RandAugment's scale, 10 the strongest, as the papers count it
FILL = (124, 116, 104)  # fills the pixels outside a transformed image: ImageNet's mean


def train_transform(settings: Mapping[str, Any], size: int, square: bool) -> nn.Module:
    """Return a transform of an image to `[3, size, size]` uint8, in the order of torchvision's reference recipes."""
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
    """Return a transform of an image to `[3, size, size]` uint8 without randomness."""
    from torchvision.transforms import v2

    return v2.Compose([*_fitted(size, square), v2.PILToTensor()])


def _fitted(size: int, square: bool) -> list[nn.Module]:
    """Return transforms to size x size: squares are resized whole, others by the shorter side, and cropped."""
    from torchvision.transforms import v2

    if square:
        return [v2.Resize((size, size), antialias=True)]
    return [v2.Resize(round(size / CROPPED), antialias=True), v2.CenterCrop(size)]


class NoisyRandAugment(nn.Module):
    """RandAugment with two of torchvision's operations, and a strength that is drawn for each image.

    The strength is drawn from a normal distribution and cut to 0..10, as in timm's `rand-m9-mstd0.5`. Its operations
    are torchvision's; timm's list also has Invert, SolarizeAdd and Posterize's other direction.

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
        """Return the image, transformed twice."""
        strength = torch.empty(()).normal_(self._mean, self._deviation).clamp(0, MAGNITUDES).item()
        return self._at[round(strength * self.STEPS)](image)


class Mixer:
    """Mixup and CutMix: mixes the images and labels of a batch; with both, one is drawn for each batch.

    Args:
        settings: The trial's settings, of which `mixup` and `cutmix` are read.
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
            seed: Decides which images are mixed, how much and where; the same on every device.

        Returns:
            (inputs, labels), the labels as probabilities `[batch, classes]`; the arguments if nothing is mixed.
        """
        if self._mix is None:
            return inputs, labels
        # The transforms draw from the CPU's global generator, which the model uses: restore its state afterwards.
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            return self._mix(inputs, labels)
        finally:
            torch.set_rng_state(state)
