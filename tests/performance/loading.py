"""Images per second: small images augmented on the device, against torchvision's ImageFolder in worker processes.

    python tests/performance/loading.py FOLDER [--device cpu] [--workers 2] [--seconds 20]

Both crop with a padding of 4, flip, normalise and end on the device, in batches of 128; the two take turns, and the
median of three is shown. Not a test: what it prints depends on the machine.
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


def ours(folder: Path, device: torch.device) -> Batches:
    """Epochs of the small-image path."""
    settings = {"crop_padding": 4, "flip": True}
    data = source(f"imagefolder:{folder}").load(
        Loading(device=device, data_dir=folder, settings=settings)
    )
    return lambda seed: data.train_batches(BATCH, seed)


def theirs(folder: Path, device: torch.device, workers: int) -> Batches:
    """Epochs of torchvision's folder by workers that stay."""
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
    """Images per second of some seconds, whole epochs or parts of one; the first batch is not counted."""
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = {
        "on the device": ours(options.folder.absolute(), options.device),
        f"DataLoader, {options.workers} workers": theirs(
            options.folder, options.device, options.workers
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, batches in paths.items():
            rates[name].append(rate(batches, options.seconds / ROUNDS, options.device))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {options.device}")
    for name, seen in rates.items():
        print(
            f"{name:24} {statistics.median(seen):9.0f} images/s  ({', '.join(f'{x:.0f}' for x in seen)})"
        )


if __name__ == "__main__":
    main()
