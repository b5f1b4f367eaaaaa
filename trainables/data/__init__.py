"""Datasets: `source(name)` says what a dataset is, `Source.load` brings it to the training device for one trial.

Small images live on the device whole and are augmented there in batches: no worker processes, no copy and no
synchronisation in a step. Large ones come from worker processes. Either way an epoch is decided by its seed alone:
whatever ran before it, on whichever device, by however many workers, its batches are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from precond import HyperparameterError
from precond.hyperparameters import nearest

Batch = tuple[Tensor, Tensor]


class DataError(OSError):
    """Data that is missing, short or damaged; the message is one line and names the file. The trial stays in flight."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a dataset is loaded for one trial.

    Attributes:
        device: Where batches are wanted.
        data_dir: The folder that datasets are in.
        settings: Augmentation by the recipe's names; one that is missing is off. `crop_padding: int`, `flip: bool`,
            `resolution: int` and `test_resolution: int` in pixels, `random_resized_crop: bool`,
            `trivial_augment: bool`, `randaugment: (magnitude of 10, standard deviation) | None`,
            `random_erasing: float` (a probability), `repeated_augmentation: int` (how often an image is in a row).
        train_fraction: Below 1 the rest of the training set, by class in proportion, is held out and takes the place
            of the test set.
        rank: Which share of every training batch.
        ranks: Of how many; a batch is drawn and augmented as a whole, so that its numbers are one process's.
    """

    device: torch.device
    data_dir: Path
    settings: Mapping[str, Any]
    train_fraction: float = 1.0
    rank: int = 0
    ranks: int = 1


class Data(Protocol):
    """A dataset loaded for a trial."""

    @property
    def train_examples(self) -> int:
        """Images that an epoch draws from; fewer than the training set has with `train_fraction` below 1."""
        ...

    @property
    def evaluation_examples(self) -> int:
        """Images in all of `test_batches`."""
        ...

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches in an epoch; the last, smaller one is dropped."""
        ...

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """One epoch of (inputs `[b, channels, height, width]`, labels `[b]`) on the device, augmented.

        Args:
            batch_size: Over all ranks.
            seed: Decides order and augmentation, the same on every device.
        """
        ...

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """The test set, or what was held out, in order and whole on every rank."""
        ...


class Source(Protocol):
    """A dataset."""

    @property
    def name(self) -> str:
        """As in a workload's name."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def train_examples(self) -> int:
        """Images in the training set."""
        ...

    @property
    def test_examples(self) -> int:
        """Images in the test set."""
        ...

    @property
    def channels(self) -> int:
        """Of an image."""
        ...

    @property
    def size(self) -> int:
        """Height and width of an image in pixels; of large images, what they are cropped to by default."""
        ...

    @property
    def augmented(self) -> bool:
        """Whether it is images that the settings of augmentation apply to."""
        ...

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """One line for each thing missing or wrong: path, size, and the command that gets it.

        Args:
            data_dir: The folder that datasets are in.
            verify: Read everything and compare checksums.
        """
        ...

    def load(self, loading: Loading) -> Data:
        """The dataset on a device.

        Raises:
            DataError: It is missing, short or damaged.
        """
        ...


@dataclass(frozen=True)
class TensorData:
    """A dataset that fits on the device, as it is: no augmentation.

    Attributes:
        train_inputs: `[n, ...]`.
        train_labels: `[n]` int64.
        test_inputs: `[m, ...]`.
        test_labels: `[m]` int64.
        rank: Which share of a batch.
        ranks: Of how many.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    rank: int = 0
    ranks: int = 1

    @property
    def train_examples(self) -> int:
        """Images in an epoch."""
        return len(self.train_labels)

    @property
    def evaluation_examples(self) -> int:
        """Images in `test_batches`."""
        return len(self.test_labels)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches in the training set; the last, smaller one is dropped."""
        return len(self.train_labels) // batch_size

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """One epoch of (inputs, labels) in the order that the seed gives, the same on every device."""
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(seed))
        order = order.to(self.train_labels.device)
        for step in range(self.steps_per_epoch(batch_size)):
            chosen = order[share(step, batch_size, self.rank, self.ranks)]
            yield self.train_inputs[chosen], self.train_labels[chosen]

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """The test set in order, (inputs, labels)."""
        return zip(self.test_inputs.split(batch_size), self.test_labels.split(batch_size), strict=True)


def share(step: int, batch_size: int, rank: int, ranks: int) -> slice:
    """A rank's positions in the epoch's order at a step: contiguous, the shares of a batch differ by one at most."""
    start = step * batch_size
    return slice(start + rank * batch_size // ranks, start + (rank + 1) * batch_size // ranks)


def held_out(labels: Tensor, train_fraction: float) -> tuple[Tensor, Tensor]:
    """Positions of what is trained on and of what is held out, both ascending; `[n]` int64 labels on the CPU.

    Of each class the share is the same to within half an image, and the choice is the same in every trial.
    """
    generator = torch.Generator().manual_seed(0)
    out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        taken = len(members) - round(train_fraction * len(members))
        out[members[torch.randperm(len(members), generator=generator)[:taken]]] = True
    return (~out).nonzero().flatten(), out.nonzero().flatten()


def default_data_dir() -> Path:
    """`$PRECOND_DATA`, or `data` below the current directory."""
    return Path(os.environ.get("PRECOND_DATA") or "data")


def source(name: str) -> Source:
    """A dataset by name; `imagefolder:PATH` is any folder of class folders.

    Raises:
        HyperparameterError: Unknown name; the message names the nearest and all known ones.
    """
    kind, _, path = name.partition(":")
    if kind == "imagefolder" and path:
        from trainables.data.folder import image_folder

        return image_folder(path)
    from trainables.data.cifar import CIFAR10, CIFAR100
    from trainables.data.digits import Digits
    from trainables.data.imagenet import ImageNet, TinyImageNet

    known = {found.name: found for found in (Digits(), CIFAR10, CIFAR100, TinyImageNet(), ImageNet())}
    if name not in known:
        raise HyperparameterError(f'dataset = "{name}": unknown.{nearest(name, [*known, "imagefolder:PATH"])}')
    return known[name]
