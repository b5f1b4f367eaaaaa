"""Small images that stay on the device as a whole and are augmented there in batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from trainables.data import augment
from trainables.data.base import Batch, Data, ImageData, Images, Loading
from trainables.data.loader import LoaderData

BY_WORKERS = ("random_resized_crop", "trivial_augment", "randaugment")
"""Settings that need worker processes (`loader.py`)."""


class DeviceData(ImageData):
    """Images on a device.

    Args:
        images: Both splits as tensors; on a CPU they stay in the page cache.
        loading: How to load them.
    """

    def __init__(self, images: Images, loading: Loading):
        super().__init__(images, loading)
        self._train, self._labels = (
            images.train.to(loading.device),
            images.train_labels.to(loading.device),
        )
        if loading.train_fraction < 1:
            self._test, self._test_labels = self._train, self._labels
        self._test, self._test_labels, self._test_positions = (
            part.to(loading.device)
            for part in (self._test, self._test_labels, self._test_positions)
        )

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield one epoch of (inputs, labels); all its random numbers are drawn first, on the CPU."""
        drawn = self._draw(Generator().manual_seed(seed))
        for part in self._shares(batch_size):
            mine = {name: values[part] for name, values in drawn.items()}
            yield self._augmented(mine), self._labels[mine["order"]]

    def _draw(self, generator: Generator) -> dict[str, Tensor]:
        """Return the random numbers of an epoch by position in it: `[n, ...]`, on the device."""
        settings, n = self._settings, self.train_examples
        drawn = {"order": self._order(generator)}
        if padding := settings.get("crop_padding", 0):
            drawn["offsets"] = torch.randint(2 * padding + 1, (n, 2), generator=generator)
        if settings.get("flip"):
            drawn["flipped"] = torch.rand(n, generator=generator) < 0.5
        if probability := settings.get("random_erasing", 0.0):
            drawn["boxes"] = augment.draw_boxes(n, self._size, probability, generator)
        return {name: values.to(self._loading.device) for name, values in drawn.items()}

    def _augmented(self, drawn: dict[str, Tensor]) -> Tensor:
        """Return an augmented batch: crop and flip at the original size, normalise, resize, erase."""
        images = self._train[drawn["order"]]
        if "offsets" in drawn:
            images = augment.crop(images, drawn["offsets"], self._settings["crop_padding"])
        if "flipped" in drawn:
            images = augment.flip(images, drawn["flipped"])
        images = augment.resize(augment.normalise(images, self._scale, self._shift), self._size)
        return augment.erase(images, drawn["boxes"]) if "boxes" in drawn else images

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the test set, or the held-out images, in order."""
        for part in self._test_positions.split(batch_size):
            images = augment.normalise(self._test[part], self._scale, self._shift)
            yield augment.resize(images, self._test_size), self._test_labels[part]


def small_images(images: Images, loading: Loading) -> Data:
    """Load images for a trial: onto the device if it can do all of the augmentation, or by workers."""
    if not any(loading.settings.get(name) for name in BY_WORKERS):
        return DeviceData(images, loading)
    return LoaderData(images, loading)
