"""The number of trials that share a GPU, measured once per workload and GPU model.

A small model leaves most of a GPU idle, and the best number of concurrent trials depends on the
model, the optimizer and the GPU. It is therefore measured: 1, 2, 3, ... processes train the same
trial at the same time for some seconds, until an additional process does not raise the throughput
or does not fit into memory. The trial uses the optimizer that needs the most memory, so that every
combination of the study's trials fits. The results are stored in the output folder, in `packing/`.
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

MAX_MEMORY = 0.9  # fraction of the GPU's memory; the rest is a margin for varying peaks
MIN_GAIN = 1.05  # the factor by which an additional process must raise the steps per second
MAX_PROCESSES = 8
WARM_UP_STEPS, SECONDS = 5, 10.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Throughput and memory of several concurrent processes on a GPU.

    Attributes:
        processes: Number of processes.
        steps_per_s: Steps per second of all processes together.
        memory_mb: Memory in use on the whole GPU in MiB, including a CUDA context per process.
        capacity_mb: Memory of the GPU in MiB.
    """

    processes: int
    steps_per_s: float
    memory_mb: float
    capacity_mb: float


Measure = Callable[[TrialConfig, int], Load]


def share(
    root: Path, configs: Sequence[TrialConfig], device: str = "cuda", measure: Measure | None = None
) -> float:
    """Return the fraction of this GPU that each trial requests: the largest over all workloads.

    Args:
        root: The output folder. Results in its folder `packing/` are read; new results are written.
        configs: The trials to train.
        device: The GPU.
        measure: Replaces the measurement, for tests.
    """
    # One configuration per optimizer, by workload.
    groups: dict[str, dict[str, TrialConfig]] = {}
    for config in configs:
        groups.setdefault(config.workload, {}).setdefault(config.optimizer, config)
    processes = min(
        _packed(root, name, [*group.values()], device, measure) for name, group in groups.items()
    )
    return math.floor(10_000 / processes) / 10_000  # Ray rounds to four decimals


def grow(measure: Callable[[int], Load]) -> list[Load]:
    """Return the loads of 1, 2, 3, ... processes, while they fit and raise the throughput."""
    loads = [measure(1)]
    while len(loads) < MAX_PROCESSES:
        last = loads[-1]
        if last.memory_mb * (len(loads) + 1) / len(loads) > MAX_MEMORY * last.capacity_mb:
            break
        load = measure(len(loads) + 1)
        if load.memory_mb > MAX_MEMORY * load.capacity_mb:
            break
        if load.steps_per_s < MIN_GAIN * last.steps_per_s:
            break
        loads.append(load)
    return loads


def _packed(
    root: Path, workload: str, group: list[TrialConfig], device: str, measure: Measure | None
) -> int:
    """Return the number of processes for a workload on this GPU model; measure it if necessary."""
    gpu, name = (re.sub(r"[^A-Za-z0-9.]+", "-", text) for text in (device_name(device), workload))
    path = root / "packing" / gpu / f"{name}.json"
    try:
        stored = json.loads(path.read_bytes())
        if {config.optimizer for config in group} <= set(stored["optimizers"]):
            return stored["processes"]
    except (OSError, ValueError, KeyError):
        pass  # not measured yet, or the file is incomplete
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
    """Return the load of several processes that train the same trial at the same time.

    Args:
        root: The output folder, which contains the copy of the plugin if the trial needs one.
        config: The trial.
        processes: Number of processes.
        device: The GPU.
        seconds: Seconds of training after the warm-up.

    Raises:
        torch.multiprocessing.ProcessRaisedException: A process failed, for example because the
            memory was insufficient.
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
    """Put (steps per second, memory in use in MiB, capacity in MiB) into `answers`.

    The second barrier keeps every process alive until all have read the memory in use.
    """
    torch.set_num_threads(1)
    plugins.load_copies(root, config)
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
    """Train until `stop(steps)` is True and the device has finished; return the number of steps."""
    load, steps = trainer.data.train_batches, 0

    def endless(batch_size: int, seed: int) -> Iterator[Batch]:
        nonlocal steps
        for batch in chain.from_iterable(load(batch_size, seed + epoch) for epoch in count()):
            if stop(steps):
                return
            steps += 1
            yield batch

    trainer.data.train_batches = endless  # type: ignore[method-assign]
    # This reads the losses at its end, which waits for the device.
    trainer._train_epoch(0, Phases(trainer.device))
    trainer.data.train_batches = load  # type: ignore[method-assign]
    return steps
