"""Mixup and CutMix: a batch's images and labels mixed with its own, by torchvision, from a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Mixer:
    """Mixes batches as `mixup` and `cutmix` of a trial's settings say; with both a coin decides for each batch.

    Args:
        settings: The trial's.
        classes: Number of classes.
    """

    def __init__(self, settings: Mapping[str, Any], classes: int):
        self._mix = _mix(settings.get("mixup", 0.0), settings.get("cutmix", 0.0), classes)

    def __call__(self, inputs: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The batch, mixed.

        Args:
            inputs: `[batch, channels, height, width]`.
            labels: `[batch]` int64.
            seed: Decides which images, how much of them, and where; the same on every device.

        Returns:
            (inputs, labels), the labels as probabilities `[batch, classes]`; the arguments where nothing is mixed.
        """
        if self._mix is None:
            return inputs, labels
        # The transforms draw from the CPU's global generator, which is the model's: lend it to them for the call.
        before = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            return self._mix(inputs, labels)
        finally:
            torch.set_rng_state(before)


def _mix(mixup: float, cutmix: float, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    if not mixup and not cutmix:
        return None
    from torchvision.transforms import v2

    kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
    chosen = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
    return chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)
