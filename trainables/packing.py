"""The number of trials that share a GPU, measured once for each workload and GPU model and stored in `packing/`.

A small model leaves most of a GPU idle. How many trials can run beside each other depends on the model, the optimizer's
memory and the GPU. So 1, 2, 3 ... processes train the same trial side by side for some seconds each, as long as one
more process raises the throughput and fits into memory. The trial is that of the optimizer with the largest memory, so
that every mixture of the study's trials fits also.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from trainables import plugins
from trainables.config import TrialConfig
from trainables.data.base import Batch
from trainables.files import write_atomically
from trainables.measure import Phases, device_name
from trainables.train import Trainer

MEMORY = 0.9  # largest fraction of a GPU's memory: the allocator's peaks differ from run to run
GAIN = 1.05  # smallest ratio of steps per second for which another process is added
MOST = 8  # processes
WARM_UP_STEPS, SECONDS = 5, 10.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Throughput and memory of some processes on a GPU.

    Attributes:
        processes: Number of processes.
        steps_per_s: Steps per second of all processes together.
        memory_mb: Memory in use on the whole GPU, including what the driver needs for each process.
        capacity_mb: Memory of the GPU.
    """

    processes: int
    steps_per_s: float
    memory_mb: float
    capacity_mb: float


Measure = Callable[[TrialConfig, int], Load]


def share(
    root: Path, configs: Sequence[TrialConfig], device: str = "cuda", measure: Measure | None = None
) -> float:
    """Return the fraction of this GPU that a trial gets: the largest that any of the workloads needs.

    Args:
        root: The output folder; results are stored in its `packing/`, and read if they exist.
        configs: The trials to train.
        device: The GPU.
        measure: Replaces training for some seconds.
    """
    groups: dict[
        str, dict[str, TrialConfig]
    ] = {}  # one configuration for each optimizer, by workload
    for config in configs:
        groups.setdefault(config.workload, {}).setdefault(config.optimizer, config)
    processes = min(
        _packed(root, name, [*group.values()], device, measure) for name, group in groups.items()
    )
    return math.floor(10_000 / processes) / 10_000  # Ray counts in ten thousandths


def grow(measure: Callable[[int], Load]) -> list[Load]:
    """Return the loads of 1, 2, 3 ... processes, up to the last that fits and raises the throughput."""
    loads = [measure(1)]
    while len(loads) < MOST:
        last = loads[-1]
        if last.memory_mb * (len(loads) + 1) / len(loads) > MEMORY * last.capacity_mb:
            break
        load = measure(len(loads) + 1)
        if load.steps_per_s < GAIN * last.steps_per_s or load.memory_mb > MEMORY * load.capacity_mb:
            break
        loads.append(load)
    return loads


def _packed(
    root: Path, workload: str, group: list[TrialConfig], device: str, measure: Measure | None
) -> int:
    """Return the number of processes for a workload on this GPU model, measured unless it is stored."""
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in (device_name(device), workload)]
    path = root / "packing" / words[0] / f"{words[1]}.json"
    try:
        kept = json.loads(path.read_bytes())
        if {config.optimizer for config in group} <= set(kept["optimizers"]):
            return kept["processes"]
    except (OSError, ValueError, KeyError):
        pass  # not measured, or written incompletely
    run = measure or (lambda config, processes: side_by_side(root, config, processes, device))
    alone = {config.optimizer: run(config, 1) for config in group}
    largest = max(group, key=lambda config: alone[config.optimizer].memory_mb)
    loads = grow(lambda processes: run(largest, processes))
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "processes": len(loads),
        "hungriest": largest.optimizer,
        "optimizers": {name: asdict(load) for name, load in alone.items()},
        "loads": [asdict(load) for load in loads],
    }
    write_atomically(path, json.dumps(document, indent=1).encode())
    return len(loads)


def side_by_side(
    root: Path, config: TrialConfig, processes: int, device: str, seconds: float = SECONDS
) -> Load:
    """Train the same trial in several processes at once, for some seconds after a warm-up.

    Args:
        root: The output folder, which has a copy of the plugin.
        config: The trial.
        processes: Number of processes.
        device: The GPU.
        seconds: Duration.

    Raises:
        torch.multiprocessing.ProcessRaisedException: One of them failed, for example because memory ran out.
    """
    context = torch.multiprocessing.get_context("spawn")
    answers, barrier = context.SimpleQueue(), context.Barrier(processes)
    torch.multiprocessing.spawn(
        _train, (root, config, device, seconds, barrier, answers), nprocs=processes
    )
    speeds, used, capacity = zip(*(answers.get() for _ in range(processes)), strict=True)
    return Load(
        processes=processes, steps_per_s=sum(speeds), memory_mb=max(used), capacity_mb=capacity[0]
    )


def _train(
    rank: int,
    root: Path,
    config: TrialConfig,
    device: str,
    seconds: float,
    barrier: Any,
    answers: Any,
) -> None:
    """Put steps per second, and the device's memory while all processes train, into `answers`."""
    torch.set_num_threads(1)
    if config.plugin:
        plugins.load(plugins.kept(root, config.plugin), config.plugin)
    trainer = Trainer(config.with_seed(rank), torch.device(device))
    _steps(trainer, lambda steps: steps >= WARM_UP_STEPS)
    barrier.wait()
    start = time.monotonic()
    steps = _steps(trainer, lambda steps: time.monotonic() - start >= seconds)
    steps_per_s = steps / (time.monotonic() - start)
    used, capacity = 0.0, math.inf
    if trainer.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(trainer.device)
        used, capacity = (total - free) / 2**20, total / 2**20
    barrier.wait()
    answers.put((steps_per_s, used, capacity))


def _steps(trainer: Trainer, stop: Callable[[int], bool]) -> int:
    """Train until `stop(steps)` is true and the device has finished; return the number of steps."""
    load, taken = trainer.data.train_batches, 0

    def endless(batch_size: int, seed: int) -> Iterator[Batch]:
        nonlocal taken
        for batch in chain.from_iterable(load(batch_size, seed + epoch) for epoch in count()):
            if stop(taken):
                return
            taken += 1
            yield batch

    trainer.data.train_batches = endless  # type: ignore[method-assign]
    trainer._train_epoch(
        0, Phases(trainer.device)
    )  # reads the losses at the end, and so waits for the device
    trainer.data.train_batches = load  # type: ignore[method-assign]
    return taken
