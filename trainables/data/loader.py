"""Images that worker processes read and augment with torchvision's v2 transforms.

These are large images, and small images with an augmentation that `device.py` does not support. The
workers send bytes; the images are normalised and erased on the device. Each image has its own
random seed, drawn in the order of the epoch. The batches therefore do not depend on the number of
workers, and the batches of a killed worker can be read again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import ForkContext
from multiprocessing.sharedctypes import RawValue
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainables.data import augment
from trainables.data.base import Batch, DataError, ImageData, Images, Loading
from trainables.data.transforms import test_transform, train_transform

MAX_WORKERS = 16
PREFETCHED = 4  # batches per worker that are ready or in progress
Requests = Callable[[int], list[tuple[int, int]]]  # step -> position and seed of each image


class LoaderData(ImageData):
    """A dataset of images that worker processes read.

    Args:
        images: Both splits.
        loading: The trial's loading options.
        workers: Number of worker processes; 0 reads in the calling process. By default
            `loader_workers` decides.
    """

    def __init__(self, images: Images, loading: Loading, workers: int | None = None):
        super().__init__(images, loading)
        self._workers = loader_workers(loading.ranks) if workers is None else workers

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield the (inputs, labels) of one epoch, which the seed determines."""
        generator = Generator().manual_seed(seed)
        order = self._order(generator)
        seeds = torch.randint(2**62, (self.train_examples,), generator=generator)
        boxes = None
        if probability := self._settings.get("random_erasing", 0.0):
            boxes = augment.draw_boxes(self.train_examples, self._size, probability, generator)
        parts = self._shares(batch_size)
        transform = train_transform(self._settings, self._size, self._images.square)
        dataset = _Transformed(self._images.train, transform)

        def requests(step: int) -> list[tuple[int, int]]:
            return list(zip(order[parts[step]].tolist(), seeds[parts[step]].tolist(), strict=True))

        labels = (self._images.train_labels[order[part]] for part in parts)
        inputs = self._read(dataset, requests, len(parts))
        batches = self._copy_to_device(zip(inputs, labels, strict=True))
        for part, (images, targets) in zip(parts, batches, strict=True):
            inputs = augment.normalise(images, self._scale, self._shift)
            if boxes is not None:
                inputs = augment.erase(inputs, boxes[part].to(inputs.device, non_blocking=True))
            yield inputs, targets

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Yield the (inputs, labels) of the test set, or of the held-out images, in order.

        If all images are squares, they are resized. Otherwise the shorter side of each image is
        resized, and the centre of the image is cropped.
        """
        dataset = _Transformed(self._test, test_transform(self._test_size, self._images.square))
        parts = self._test_positions.split(batch_size)

        def requests(step: int) -> list[tuple[int, int]]:
            return [(position, 0) for position in parts[step].tolist()]

        labels = (self._test_labels[part] for part in parts)
        inputs = self._read(dataset, requests, len(parts))
        for images, targets in self._copy_to_device(zip(inputs, labels, strict=True)):
            yield augment.normalise(images, self._scale, self._shift), targets

    def _read(self, dataset: _Transformed, requests: Requests, steps: int) -> Iterator[Tensor]:
        """Yield the images of each step, `[b, 3, size, size]` uint8.

        If a worker is killed, the remaining steps are read with new workers; the second loss of a
        worker raises an error.
        """
        done, lost = 0, 0
        while done < steps:
            try:
                for images in self._start_workers(dataset, map(requests, range(done, steps))):
                    yield images
                    done += 1
            except DataError as error:
                # The error of a worker contains a traceback; the message is in the last line.
                message = str(error).splitlines()[-1].partition("DataError: ")[2]
                raise DataError(message or str(error)) from error
            except (RuntimeError, OSError, EOFError) as error:
                # If a worker has died, the request for the next batch raises an error, or the
                # connection breaks while this process receives a batch from the worker.
                lost += 1
                if lost > 1 or (
                    isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)
                ):
                    raise

    def _start_workers(self, dataset: _Transformed, batches: Iterable[Any]) -> Iterator[Tensor]:
        """Start workers; return the images of the batches, which list positions and seeds."""
        handler = signal.getsignal(signal.SIGCHLD)
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self._workers,
            prefetch_factor=PREFETCHED if self._workers else None,
            multiprocessing_context=_Context() if self._workers else None,
            collate_fn=torch.stack,
            pin_memory=self._loading.device.type == "cuda",
            # By default, DataLoader draws from torch's global generator, which the model uses.
            generator=Generator(),
        )
        images = iter(loader)
        # With torch's handler, an error about a dead worker would interrupt a step at any point.
        # Without the handler, the request for the next batch raises the error.
        if signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler)
        return images

    def _copy_to_device(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches on the device; on a GPU, a second stream copies the next batch ahead."""
        device = self._loading.device
        if device.type != "cuda":
            yield from batches
            return
        stream = torch.cuda.Stream(device)
        ahead: tuple[Batch, torch.cuda.Event] | None = None
        for images, labels in batches:
            with torch.cuda.stream(stream):
                batch = (
                    images.to(device, non_blocking=True),
                    labels.pin_memory().to(device, non_blocking=True),
                )
                copied = torch.cuda.Event()
                copied.record(stream)
            if ahead is not None:
                yield _wait_for_copy(*ahead)
            ahead = batch, copied
        if ahead is not None:
            yield _wait_for_copy(*ahead)


def _wait_for_copy(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Return a batch that another stream copied, for use on the current stream.

    The current stream waits for the copy. torch does not reuse the batch's memory before the work
    of the current stream is complete.
    """
    current = torch.cuda.current_stream(batch[0].device)
    current.wait_event(copied)
    for tensor in batch:
        tensor.record_stream(current)
    return batch


def loader_workers(ranks: int) -> int:
    """Return the number of worker processes of each loader if `ranks` loaders share this machine.

    This is a loader's share of the CPU cores, at most `MAX_WORKERS`.
    """
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0)) // ranks))


class _Event:
    """An event without a lock, because a worker that is killed while it has the lock keeps it.

    DataLoader would then wait for the lock without end.
    """

    def __init__(self) -> None:
        self._value = RawValue("b", 0)

    def set(self) -> None:
        """Set the event."""
        self._value.value = 1

    def is_set(self) -> bool:
        """Return True after `set` was called in any of the processes."""
        return bool(self._value.value)


class _Context(ForkContext):
    """The processes and queues of the loader's workers."""

    def Event(self) -> Any:
        """Return the event that ends the workers."""
        return _Event()


class _Transformed(Dataset[Tensor]):
    """Transformed images, indexed by their position and the seed of the transform."""

    def __init__(self, images: Any, transform: nn.Module):
        self._images, self._transform = images, transform

    def __getitem__(self, request: tuple[int, int]) -> Tensor:
        position, seed = request
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._transform(self._images[position])
