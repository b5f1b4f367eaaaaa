"""What a dataset is (`Source`), how a trial loads it (`Loading`) and what it gets (`Data`); tensors in memory."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

Batch = tuple[Tensor, Tensor]


class DataError(OSError):
    """Missing, short or damaged data. The message is one line that names the file; the trial can be resumed."""


@dataclass(frozen=True)
class Loading:
    """How a dataset is loaded for one trial.

    Attributes:
        device: Where batches are needed.
        data_dir: The folder that contains the datasets.
        settings: Augmentation by the recipe's names; a missing name is off. `crop_padding: int`, `flip: bool`,
            `resolution: int` and `test_resolution: int` in pixels, `random_resized_crop: bool`,
            `trivial_augment: bool`, `randaugment: (magnitude of 10, standard deviation) | None`,
            `random_erasing: float` (a probability), `repeated_augmentation: int` (copies of an image in a row).
        train_fraction: Below 1, the rest of the training set, stratified by class, is held out and replaces the
            test set.
        rank: The share of every training batch that this process gets.
        ranks: Number of shares. A batch is drawn and augmented as a whole, so the numbers are those of one process.
    """

    device: torch.device
    data_dir: Path
    settings: Mapping[str, Any]
    train_fraction: float = 1.0
    rank: int = 0
    ranks: int = 1


class Data(Protocol):
    """A dataset loaded for a trial.

    Attributes:
        train_examples: Images that an epoch draws from; fewer than the training set with `train_fraction` below 1.
        evaluation_examples: Images in all of `test_batches`.
    """

    train_examples: int
    evaluation_examples: int

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of full batches in an epoch; the last, smaller batch is dropped."""
        return self.train_examples // batch_size

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield one epoch of (inputs `[b, channels, height, width]`, labels `[b]`) on the device, augmented.

        Args:
            batch_size: Over all ranks.
            seed: Decides order and augmentation, the same on every device.
        """
        ...

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the test set, or the held-out images, in order and whole on every rank."""
        ...


class Source(ABC):
    """A dataset.

    Attributes:
        name: The dataset's part of a workload's name.
        classes: Number of classes.
        train_examples: Images in the training set.
        test_examples: Images in the test set.
        size: Height and width of an image in pixels; for large images, the default size of their crop.
        channels: Channels of an image.
        augmented: True if the settings of augmentation apply to the dataset.
    """

    name: str
    classes: int
    train_examples: int
    test_examples: int
    size: int
    channels: int = 3
    augmented: bool = True

    @abstractmethod
    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line for each missing or damaged file: path, size, and the command that fetches it.

        Args:
            data_dir: The folder that contains the datasets.
            verify: Read everything and compare checksums.
        """

    def download(self, data_dir: Path) -> None:  # noqa: B027
        """Fetch missing files; do nothing for a dataset that cannot be downloaded.

        Raises:
            DataError: The download failed, or an existing file is damaged, which is never replaced.
        """

    @abstractmethod
    def load(self, loading: Loading) -> Data:
        """Load the dataset onto a device.

        Raises:
            DataError: It is missing, short or damaged.
        """


@dataclass(frozen=True)
class Images:
    """Both splits of a dataset of images, either tensors or read image by image.

    Attributes:
        train: `[n, 3, size, size]` uint8, or images (PIL or tensors `[3, height, width]`) by position.
        train_labels: `[n]` int64.
        test: Like `train`, m images.
        test_labels: `[m]` int64.
        mean: Of each channel over the training set, pixels in 0..1.
        deviation: The standard deviation of each channel.
        size: Height and width of a batch's images where the recipe sets none.
        square: True if all images are squares, which are resized whole and not cropped.
    """

    train: Any
    train_labels: Tensor
    test: Any
    test_labels: Tensor
    mean: Sequence[float]
    deviation: Sequence[float]
    size: int
    square: bool = False


class ImageData(Data):
    """A dataset of images loaded for a trial, either on the device or read by worker processes.

    Args:
        images: Both splits.
        loading: How to load them.
    """

    def __init__(self, images: Images, loading: Loading):
        self._images, self._loading, self._settings = images, loading, loading.settings
        self._size = self._settings.get("resolution") or images.size
        self._test_size = self._settings.get("test_resolution") or self._size
        self._train_positions = torch.arange(len(images.train_labels))
        self._test_positions = torch.arange(len(images.test_labels))
        self._test, self._test_labels = images.test, images.test_labels
        if loading.train_fraction < 1:
            self._train_positions, self._test_positions = held_out(
                images.train_labels, loading.train_fraction
            )
            self._test, self._test_labels = images.train, images.train_labels
        self.train_examples, self.evaluation_examples = (
            len(self._train_positions),
            len(self._test_positions),
        )
        deviation = torch.tensor(images.deviation).clamp_min(
            1 / 255
        )  # a channel of one colour stays finite
        self._scale = (1 / (255 * deviation)).view(-1, 1, 1).to(loading.device)
        self._shift = (-torch.tensor(images.mean) / deviation).view(-1, 1, 1).to(loading.device)

    def _order(self, generator: Generator) -> Tensor:
        """Return the positions of an epoch's images, in their order."""
        repeats = self._settings.get("repeated_augmentation", 0)
        return self._train_positions[epoch_order(self.train_examples, repeats, generator)]

    def _shares(self, batch_size: int) -> list[slice]:
        """Return this rank's share of each step of an epoch."""
        steps = range(self.steps_per_epoch(batch_size))
        return [share(step, batch_size, self._loading.rank, self._loading.ranks) for step in steps]


@dataclass
class TensorData(Data):
    """A dataset that fits on the device and is not augmented.

    Attributes:
        train_inputs: `[n, ...]`.
        train_labels: `[n]` int64.
        test_inputs: `[m, ...]`.
        test_labels: `[m]` int64.
        rank: The share of a batch that this process gets.
        ranks: Number of shares.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    rank: int = 0
    ranks: int = 1

    def __post_init__(self):
        self.train_examples, self.evaluation_examples = (
            len(self.train_labels),
            len(self.test_labels),
        )

    @classmethod
    def load(cls, tensors: Sequence[Tensor], loading: Loading) -> TensorData:
        """Return a trial's data from the inputs and labels of both splits, which are on the CPU."""
        x, y, test_x, test_y = tensors
        if loading.train_fraction < 1:
            kept, out = held_out(y, loading.train_fraction)
            x, y, test_x, test_y = x[kept], y[kept], x[out], y[out]
        parts = (part.to(loading.device) for part in (x, y, test_x, test_y))
        return cls(*parts, rank=loading.rank, ranks=loading.ranks)

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield one epoch of (inputs, labels) in the order that the seed gives, the same on every device."""
        order = epoch_order(self.train_examples, 1, Generator().manual_seed(seed)).to(
            self.train_labels.device
        )
        for step in range(self.steps_per_epoch(batch_size)):
            chosen = order[share(step, batch_size, self.rank, self.ranks)]
            yield self.train_inputs[chosen], self.train_labels[chosen]

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the test set in order, (inputs, labels)."""
        return zip(
            self.test_inputs.split(batch_size), self.test_labels.split(batch_size), strict=True
        )


def epoch_order(examples: int, repeats: int, generator: Generator) -> Tensor:
    """Return an epoch's shuffled positions `[examples]`, each `repeats` times in a row if `repeats` is above 1."""
    order = torch.randperm(examples, generator=generator)
    return order.repeat_interleave(repeats)[:examples] if repeats > 1 else order


def share(step: int, batch_size: int, rank: int, ranks: int) -> slice:
    """Return a rank's contiguous positions in the epoch's order; the shares of a batch differ by at most one."""
    start = step * batch_size
    return slice(start + rank * batch_size // ranks, start + (rank + 1) * batch_size // ranks)


def held_out(labels: Tensor, train_fraction: float) -> tuple[Tensor, Tensor]:
    """Return the positions to train on and the held-out positions, both ascending; labels `[n]` int64 on the CPU.

    The held-out share of each class is exact to within half an image, and the choice is the same in every trial.
    """
    generator = Generator().manual_seed(0)
    out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        taken = len(members) - round(train_fraction * len(members))
        out[members[torch.randperm(len(members), generator=generator)[:taken]]] = True
    return (~out).nonzero().flatten(), out.nonzero().flatten()


def default_data_dir() -> Path:
    """Return `$PRECOND_DATA`, or `data` below the current directory."""
    return Path(os.environ.get("PRECOND_DATA") or "data")
