"""The interfaces of datasets, and the base of image datasets.

A `Source` describes a dataset. `Loading` contains the options with which a trial loads the dataset.
`Data` is the loaded dataset.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from trainables.data.order import epoch_order, held_out, share
from trainables.tasks import CLASSIFICATION, Task

Batch = tuple[Any, Any]  # inputs and targets


class DataError(OSError):
    """The data are missing, incomplete or damaged.

    The message is one line that names the file. The trial can be resumed after the data are
    restored.
    """


@dataclass(frozen=True)
class Loading:
    """The options with which a trial loads a dataset.

    Attributes:
        device: Device of the batches.
        data_dir: The folder that contains the datasets.
        settings: Settings by their names in recipes; a missing setting is neutral. A dataset reads
            those that it declares and, for images, the augmentation: `crop_padding: int`,
            `flip: bool`, `resolution: int` and `test_resolution: int` in pixels,
            `random_resized_crop: bool`, `trivial_augment: bool`,
            `randaugment: (magnitude out of 10, standard deviation) | None`,
            `random_erasing: float` (a probability), `repeated_augmentation: int` (consecutive
            copies of an image).
        train_fraction: If below 1, the rest of the training set is held out and replaces the test
            set. The rest is the same share of each class, or the end of a text.
        rank: Index of the share of each training batch that this process receives.
        ranks: Number of shares. The shares together equal the batch of a single process, because
            the order and the random numbers do not depend on `ranks`.
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
        train_examples: Number of examples that an epoch draws from; fewer than the training set
            contains if `train_fraction` is below 1.
        evaluation_examples: Number of examples in `test_batches`.
    """

    train_examples: int
    evaluation_examples: int

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of full batches in an epoch; the last, smaller batch is dropped."""
        return self.train_examples // batch_size

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield the augmented batches of one epoch on the device.

        Args:
            batch_size: Examples of a batch over all ranks.
            seed: Determines the order and the augmentation, which are the same on every device.

        Yields:
            Inputs and targets; for images, `[b, channels, height, width]` and labels `[b]`.
        """
        ...

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the test set, or the held-out examples, in order; every rank receives all."""
        ...


class Source(ABC):
    """A dataset.

    Attributes:
        name: Name of the dataset, which is the first part of a workload's name.
        classes: Number of outputs of a model: the number of classes, of targets of a regression, or
            of tokens in the vocabulary.
        train_examples: Number of examples in the training set.
        test_examples: Number of examples in the test set.
        size: Height and width of an image in pixels; for large images, the default size of a crop;
            1 for vectors; the number of tokens of an example for text.
        channels: Number of channels of an image, or the length of a vector.
        augmented: True if the augmentation settings apply to the dataset.
        settings: Names of the settings that apply to this dataset only.
        content: SHA-256 of a user's file, or of a text that depends on the version of Python. None
            for all other datasets. The value is a part of the key of a trial.
        task: The task of a workload with this dataset, unless the workload's model has a task.
    """

    name: str
    classes: int
    train_examples: int
    test_examples: int
    size: int
    channels: int = 3
    augmented: bool = True
    settings: tuple[str, ...] = ()
    content: str | None = None
    task: Task = CLASSIFICATION

    @abstractmethod
    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line for each missing or damaged file.

        A line contains the path, the size and, if possible, the command that downloads the file.

        Args:
            data_dir: The folder that contains the datasets.
            verify: Also read all files, and compare checksums where they are known.
        """

    def download(self, data_dir: Path) -> None:  # noqa: B027
        """Download missing files; do nothing for a dataset that cannot be downloaded.

        Raises:
            DataError: The download failed, or an existing file is damaged. Existing files are never
                replaced.
        """

    def random_batch(self, examples: int, size: int, generator: Generator) -> Batch:
        """Return random inputs and targets with the shapes and types of the data, on the CPU.

        The data are not read. The batch is used to measure costs.

        Args:
            examples: Number of examples.
            size: Side of the images in pixels; 1 for vectors; the number of tokens for text.
            generator: A CPU generator.
        """
        shape = (self.channels, size, size) if size > 1 else (self.channels,)
        inputs = torch.randn(examples, *shape, generator=generator)
        if self.task.mixes_labels:
            return inputs, torch.randint(self.classes, (examples,), generator=generator)
        return inputs, torch.randn(examples, self.classes, generator=generator)

    @abstractmethod
    def load(self, loading: Loading) -> Data:
        """Load the dataset for a trial.

        Raises:
            DataError: The data are missing, incomplete or damaged.
        """


@dataclass(frozen=True)
class Images:
    """Both splits of a dataset of images, either as tensors or read one image at a time.

    Attributes:
        train: `[n, 3, size, size]` uint8, or a sequence of images (PIL images or tensors
            `[3, height, width]`).
        train_labels: `[n]` int64.
        test: m images, like `train`.
        test_labels: `[m]` int64.
        mean: Mean of each channel over the training set, for pixels scaled to 0..1.
        deviation: Standard deviation of each channel.
        size: Height and width of the images in a batch if the recipe does not set them.
        square: True if all images are squares; these are resized and not cropped.
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
    """The base of image datasets: the split, the order and the normalisation.

    Args:
        images: Both splits.
        loading: The trial's loading options.
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
        self.train_examples = len(self._train_positions)
        self.evaluation_examples = len(self._test_positions)
        # The deviation of a constant channel is 0; the lower bound avoids a division by zero.
        deviation = torch.tensor(images.deviation).clamp_min(1 / 255)
        self._scale = (1 / (255 * deviation)).view(-1, 1, 1).to(loading.device)
        self._shift = (-torch.tensor(images.mean) / deviation).view(-1, 1, 1).to(loading.device)

    def _order(self, generator: Generator) -> Tensor:
        """Return the positions of an epoch's images in shuffled order."""
        repeats = self._settings.get("repeated_augmentation", 0)
        return self._train_positions[epoch_order(self.train_examples, repeats, generator)]

    def _shares(self, batch_size: int) -> list[slice]:
        """Return this rank's share of the batch of each step of an epoch."""
        steps = range(self.steps_per_epoch(batch_size))
        return [share(step, batch_size, self._loading.rank, self._loading.ranks) for step in steps]


def default_data_dir() -> Path:
    """Return `$PRECOND_DATA`, or `data` below the current directory."""
    return Path(os.environ.get("PRECOND_DATA") or "data")
