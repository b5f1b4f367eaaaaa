"""Compare the images per second of `DeviceData` with torchvision's ImageFolder and worker processes.

    python tests/performance/loading.py FOLDER [--device cpu] [--workers 2] [--seconds 20]

Both crop with a padding of 4, flip and normalise small images, and yield batches of 128 on the
device. They are measured in turns, and the median of three measurements is printed. This is not a
test, because the result depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from trainables.data import Loading, source

BATCH, ROUNDS = 128, 3
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


def device_data(folder: Path, device: torch.device) -> Batches:
    """Return a function that yields the batches of an epoch of `DeviceData`."""
    settings = {"crop_padding": 4, "flip": True}
    data = source(f"imagefolder:{folder}").load(
        Loading(device=device, data_dir=folder, settings=settings)
    )
    return lambda seed: data.train_batches(BATCH, seed)


def image_folder(folder: Path, device: torch.device, workers: int) -> Batches:
    """Return a function that yields the batches of an epoch, read by workers of a DataLoader."""
    transform = v2.Compose([
        v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    ])  # fmt: skip
    loader = DataLoader(
        ImageFolder(folder / "train", transform),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    return lambda seed: (
        tuple(part.to(device, non_blocking=True) for part in batch) for batch in loader
    )


def rate(batches: Batches, seconds: float, device: torch.device) -> float:
    """Return the images per second, measured for some seconds after the first batch."""
    images, start, seed = 0, 0.0, 0
    while True:
        for _, labels in batches(seed):
            if not start:
                start = time.perf_counter()
                continue
            images += len(labels)
            if time.perf_counter() - start > seconds:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                return images / (time.perf_counter() - start)
        seed += 1


def main() -> None:
    """Measure both in turns and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="an image folder with train/ and test/")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--workers", type=int, default=2, help="worker processes of ImageFolder")
    parser.add_argument("--seconds", type=float, default=20, help="seconds of each method")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, device, workers = options.folder, options.device, options.workers
    methods = {
        "on the device": device_data(folder.absolute(), device),
        f"DataLoader, {workers} workers": image_folder(folder, device, workers),
    }
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(ROUNDS):
        for name, batches in methods.items():
            rates[name].append(rate(batches, options.seconds / ROUNDS, device))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {device}")
    for name, values in rates.items():
        measurements = ", ".join(f"{value:.0f}" for value in values)
        print(f"{name:24} {statistics.median(values):9.0f} images/s  ({measurements})")


if __name__ == "__main__":
    main()
