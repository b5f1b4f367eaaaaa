"""Small images: the whole dataset is on the device, where batches are augmented."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from trainables.data import augment
from trainables.data.base import Batch, Data, ImageData, Images, Loading
from trainables.data.loader import LoaderData

BY_WORKERS = ("random_resized_crop", "trivial_augment", "randaugment")
"""Augmentation settings that require worker processes (`loader.py`)."""


class DeviceData(ImageData):
    """A dataset of images on a device.

    Args:
        images: Both splits as tensors. On a CPU they remain memory-mapped and are not copied.
        loading: The trial's loading options.
    """

    def __init__(self, images: Images, loading: Loading):
        super().__init__(images, loading)
        device = loading.device
        self._train, self._labels = images.train.to(device), images.train_labels.to(device)
        if loading.train_fraction < 1:
            self._test, self._test_labels = self._train, self._labels
        self._test, self._test_labels = self._test.to(device), self._test_labels.to(device)
        self._test_positions = self._test_positions.to(device)

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield the (inputs, labels) of one epoch, whose random numbers a CPU generator draws."""
        draws = self._draw(Generator().manual_seed(seed))
        for part in self._shares(batch_size):
            batch_draws = {name: values[part] for name, values in draws.items()}
            yield self._augment(batch_draws), self._labels[batch_draws["order"]]

    def _draw(self, generator: Generator) -> dict[str, Tensor]:
        """Return an epoch's random numbers by name, `[n, ...]` on the device, in epoch order."""
        settings, n = self._settings, self.train_examples
        draws = {"order": self._order(generator)}
        if padding := settings.get("crop_padding", 0):
            draws["offsets"] = torch.randint(2 * padding + 1, (n, 2), generator=generator)
        if settings.get("flip"):
            draws["flipped"] = torch.rand(n, generator=generator) < 0.5
        if probability := settings.get("random_erasing", 0.0):
            draws["boxes"] = augment.draw_boxes(n, self._size, probability, generator)
        return {name: values.to(self._loading.device) for name, values in draws.items()}

    def _augment(self, draws: dict[str, Tensor]) -> Tensor:
        """Return a batch: cropped and flipped at the original size, normalised, resized, erased."""
        images = self._train[draws["order"]]
        if "offsets" in draws:
            images = augment.crop(images, draws["offsets"], self._settings["crop_padding"])
        if "flipped" in draws:
            images = augment.flip(images, draws["flipped"])
        images = augment.resize(augment.normalise(images, self._scale, self._shift), self._size)
        return augment.erase(images, draws["boxes"]) if "boxes" in draws else images

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the test set, or the held-out images, in order."""
        for part in self._test_positions.split(batch_size):
            images = augment.normalise(self._test[part], self._scale, self._shift)
            yield augment.resize(images, self._test_size), self._test_labels[part]


def small_images(images: Images, loading: Loading) -> Data:
    """Return `DeviceData`, or `LoaderData` if an augmentation requires worker processes."""
    if not any(loading.settings.get(name) for name in BY_WORKERS):
        return DeviceData(images, loading)
    return LoaderData(images, loading)
