"""Large images: read and augmented in worker processes by torchvision's v2 transforms, finished on the device.

Each image's random numbers are seeded by its position in the epoch, so the number of workers changes nothing, and a
lost worker's batches can be read again. Workers send bytes; the device normalises and erases.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainables.data import augment
from trainables.data.base import Batch, DataError, ImageData, Images, Loading
from trainables.data.transforms import test_transform, train_transform

MAX_WORKERS = 16
PREFETCHED = 4  # batches per worker that are ready or in progress
Wanted = Callable[[int], list[tuple[int, int]]]  # step -> position and seed of each image


class LoaderData(ImageData):
    """Images that worker processes read.

    Args:
        images: Both splits.
        loading: How to load them.
        workers: Number of worker processes; 0 reads in the calling process.
    """

    def __init__(self, images: Images, loading: Loading, workers: int | None = None):
        super().__init__(images, loading)
        self._workers = loader_workers(loading.ranks) if workers is None else workers

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield one epoch of (inputs, labels), which the seed decides."""
        generator = Generator().manual_seed(seed)
        order = self._order(generator)
        seeds = torch.randint(2**62, (self.train_examples,), generator=generator)
        probability = self._settings.get("random_erasing", 0.0)
        boxes = (
            augment.draw_boxes(self.train_examples, self._size, probability, generator)
            if probability
            else None
        )
        parts = self._shares(batch_size)
        dataset = _Transformed(
            self._images.train, train_transform(self._settings, self._size, self._images.square)
        )

        def wanted(step: int) -> list[tuple[int, int]]:
            return list(zip(order[parts[step]].tolist(), seeds[parts[step]].tolist(), strict=True))

        labels = (self._images.train_labels[order[part]] for part in parts)
        batches = self._on_device(zip(self._read(dataset, wanted, len(parts)), labels, strict=True))
        for part, (images, targets) in zip(parts, batches, strict=True):
            inputs = augment.normalise(images, self._scale, self._shift)
            if boxes is not None:
                inputs = augment.erase(inputs, boxes[part].to(inputs.device, non_blocking=True))
            yield inputs, targets

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the test set, or the held-out images, in order: the shorter side resized, the centre cropped."""
        dataset = _Transformed(self._test, test_transform(self._test_size, self._images.square))
        parts = self._test_positions.split(batch_size)

        def wanted(step: int) -> list[tuple[int, int]]:
            return [(position, 0) for position in parts[step].tolist()]

        labels = (self._test_labels[part] for part in parts)
        for images, targets in self._on_device(
            zip(self._read(dataset, wanted, len(parts)), labels, strict=True)
        ):
            yield augment.normalise(images, self._scale, self._shift), targets

    def _read(self, dataset: _Transformed, wanted: Wanted, steps: int) -> Iterator[Tensor]:
        """Yield the batches of all steps, `[b, 3, size, size]` uint8; after a first killed worker, start new ones."""
        done, lost = 0, 0
        while done < steps:
            try:
                for images in self._workers_on(dataset, map(wanted, range(done, steps))):
                    yield images
                    done += 1
            except DataError as error:
                # A worker's error contains its traceback; the last line is the message.
                raise DataError(
                    str(error).splitlines()[-1].partition("DataError: ")[2] or str(error)
                ) from error
            except (RuntimeError, OSError, EOFError) as error:
                # A dead worker is noticed at the next batch, or as a broken connection to one that it has sent.
                lost += 1
                if lost > 1 or (
                    isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)
                ):
                    raise

    def _workers_on(self, dataset: _Transformed, wanted: Iterable[Any]) -> Iterator[Tensor]:
        before = signal.getsignal(signal.SIGCHLD)
        loader = DataLoader(
            dataset,
            batch_sampler=wanted,
            num_workers=self._workers,
            prefetch_factor=PREFETCHED if self._workers else None,
            collate_fn=torch.stack,
            pin_memory=self._loading.device.type == "cuda",
            generator=Generator(),  # else it draws from torch's global generator, which the model uses
        )
        batches = iter(loader)
        # torch's handler would raise in the middle of a step; without it the next batch raises.
        if signal.getsignal(signal.SIGCHLD) is not before:
            signal.signal(signal.SIGCHLD, before)
        return batches

    def _on_device(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches on the device; on a GPU a second stream copies the next batch ahead."""
        device = self._loading.device
        if device.type != "cuda":
            yield from batches
            return
        stream = torch.cuda.Stream(device)
        ahead: tuple[Batch, torch.cuda.Event] | None = None
        for images, labels in batches:
            with torch.cuda.stream(stream):
                moved = (
                    images.to(device, non_blocking=True),
                    labels.pin_memory().to(device, non_blocking=True),
                )
                copied = torch.cuda.Event()
                copied.record(stream)
            if ahead is not None:
                yield _taken_over(*ahead)
            ahead = moved, copied
        if ahead is not None:
            yield _taken_over(*ahead)


def _taken_over(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Make a batch that another stream copied usable on the current stream: wait for it and keep its memory."""
    current = torch.cuda.current_stream(batch[0].device)
    current.wait_event(copied)
    for tensor in batch:
        tensor.record_stream(current)
    return batch


def loader_workers(ranks: int) -> int:
    """Return the workers of one of `ranks` loaders on this machine: its share of the cores, at most `MAX_WORKERS`."""
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0)) // ranks))


class _Transformed(Dataset[Tensor]):
    """Images by (position, seed); the seed decides the transform's random numbers in every process."""

    def __init__(self, images: Any, transform: nn.Module):
        self._images, self._transform = images, transform

    def __getitem__(self, wanted: tuple[int, int]) -> Tensor:
        position, seed = wanted
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._transform(self._images[position])
