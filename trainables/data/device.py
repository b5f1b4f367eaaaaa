"""Small images that stay on the device as a whole and are augmented there in batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from trainables.data import augment
from trainables.data.base import Batch, Data, Images, Loading, epoch_order, held_out, share
from trainables.data.loader import LoaderData

BY_WORKERS = ("random_resized_crop", "trivial_augment", "randaugment")
"""Settings that need worker processes (`loader.py`)."""


class DeviceData(Data):
    """Images on a device.

    Args:
        images: Both splits as tensors; on a CPU they stay in the page cache.
        loading: How to load them.
    """

    def __init__(self, images: Images, loading: Loading):
        device = loading.device
        self._loading = loading
        self._settings = settings = loading.settings
        self._images = images.train.to(device)
        self._labels = images.train_labels.to(device)
        self._chosen: Tensor | None = None  # positions to train on, if some are held out
        if loading.train_fraction < 1:
            self._chosen, out = (p.to(device) for p in held_out(images.train_labels, loading.train_fraction))
            self._test_images, self._test_labels = self._images[out], self._labels[out]
        else:
            self._test_images, self._test_labels = images.test.to(device), images.test_labels.to(device)
        self.train_examples = len(self._labels if self._chosen is None else self._chosen)
        self.evaluation_examples = len(self._test_labels)
        deviation = torch.tensor(images.deviation).clamp_min(1 / 255)  # a channel of one colour stays finite
        self._scale = (1 / (255 * deviation)).view(-1, 1, 1).to(device)
        self._shift = (-torch.tensor(images.mean) / deviation).view(-1, 1, 1).to(device)
        self._size = settings.get("resolution") or images.size
        self._test_size = settings.get("test_resolution") or self._size

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield one epoch of (inputs, labels); all its random numbers are drawn first, on the CPU."""
        drawn = self._draw(Generator().manual_seed(seed))
        for step in range(self.steps_per_epoch(batch_size)):
            at = share(step, batch_size, self._loading.rank, self._loading.ranks)
            mine = {name: values[at] for name, values in drawn.items()}
            yield self._augmented(mine), self._labels[mine["order"]]

    def _draw(self, generator: Generator) -> dict[str, Tensor]:
        """Return the random numbers of an epoch by position in it: `[n, ...]`, on the device."""
        settings, n = self._settings, self.train_examples
        order = epoch_order(n, settings.get("repeated_augmentation", 0), generator)
        drawn = {"order": order}
        if padding := settings.get("crop_padding", 0):
            drawn["offsets"] = torch.randint(2 * padding + 1, (n, 2), generator=generator)
        if settings.get("flip"):
            drawn["flipped"] = torch.rand(n, generator=generator) < 0.5
        if probability := settings.get("random_erasing", 0.0):
            drawn["boxes"] = augment.draw_boxes(n, self._size, probability, generator)
        drawn = {name: values.to(self._loading.device) for name, values in drawn.items()}
        if self._chosen is not None:
            drawn["order"] = self._chosen[drawn["order"]]
        return drawn

    def _augmented(self, drawn: dict[str, Tensor]) -> Tensor:
        """Return an augmented batch: crop and flip at the original size, normalise, resize, erase."""
        images = self._images[drawn["order"]]
        if "offsets" in drawn:
            images = augment.crop(images, drawn["offsets"], self._settings["crop_padding"])
        if "flipped" in drawn:
            images = augment.flip(images, drawn["flipped"])
        images = augment.resize(augment.normalise(images, self._scale, self._shift), self._size)
        return augment.erase(images, drawn["boxes"]) if "boxes" in drawn else images

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the test set, or the held-out images, in order."""
        for images, labels in zip(
            self._test_images.split(batch_size), self._test_labels.split(batch_size), strict=True
        ):
            yield augment.resize(augment.normalise(images, self._scale, self._shift), self._test_size), labels


def small_images(images: Images, loading: Loading) -> Data:
    """Load images for a trial: onto the device if it can do all of the augmentation, or by workers."""
    if not any(loading.settings.get(name) for name in BY_WORKERS):
        return DeviceData(images, loading)
    return LoaderData(images, loading)
