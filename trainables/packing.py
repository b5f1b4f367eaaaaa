"""How many trials share a GPU, measured: once for each workload and model of GPU, and kept in `packing/`.

A small model leaves most of a GPU idle, and a second trial beside it costs little, up to a number that nobody guesses:
it depends on the model, the optimizer's memory and the GPU. So 1, 2, 3 ... processes train the same trial side by side
for some seconds each, as long as one more gains throughput and fits. The trial is that of the hungriest optimizer, so
that any mixture of the study's trials fits, too.
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

MEMORY = 0.9  # of a GPU's, at most: the allocator's peaks differ from run to run
GAIN = 1.05  # in steps per second, at least, for one more process
MOST = 8
WARM_UP_STEPS, SECONDS = 5, 10.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What so many processes on a GPU come to.

    Attributes:
        processes: How many.
        steps_per_s: Of all together.
        memory_mb: In use on the whole GPU, what the driver takes for each process included.
        capacity_mb: That there is.
    """

    processes: int
    steps_per_s: float
    memory_mb: float
    capacity_mb: float


Measure = Callable[[TrialConfig, int], Load]


def share(root: Path, configs: Sequence[TrialConfig], device: str = "cuda", measure: Measure | None = None) -> float:
    """The share of this GPU that a trial gets, the largest that any of the workloads needs.

    Args:
        root: The output folder; what is measured is kept in its `packing/`, and read when it is there.
        configs: What will be trained.
        device: Where.
        measure: Instead of training for some seconds.
    """
    processes = min(_packed(root, name, group, device, measure) for name, group in _by_workload(configs).items())
    return math.floor(10_000 / processes) / 10_000  # Ray counts in ten thousandths


def grow(measure: Callable[[int], Load]) -> list[Load]:
    """The loads of 1, 2, 3 ... processes, up to the last that fits and that gains."""
    loads = [measure(1)]
    while len(loads) < MOST:
        last = loads[-1]
        if last.memory_mb * (len(loads) + 1) / len(loads) > MEMORY * last.capacity_mb:
            break
        more = measure(len(loads) + 1)
        if more.steps_per_s < GAIN * last.steps_per_s or more.memory_mb > MEMORY * more.capacity_mb:
            break
        loads.append(more)
    return loads


def _by_workload(configs: Sequence[TrialConfig]) -> dict[str, list[TrialConfig]]:
    """One configuration for each optimizer, by workload."""
    found: dict[str, dict[str, TrialConfig]] = {}
    for config in configs:
        found.setdefault(config.workload, {}).setdefault(config.optimizer, config)
    return {name: list(group.values()) for name, group in found.items()}


def _packed(root: Path, workload: str, group: list[TrialConfig], device: str, measure: Measure | None) -> int:
    """Processes for a workload on this model of GPU."""
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in (device_name(device), workload)]
    path = root / "packing" / words[0] / f"{words[1]}.json"
    try:
        kept = json.loads(path.read_bytes())
        if {config.optimizer for config in group} <= set(kept["optimizers"]):
            return kept["processes"]
    except (OSError, ValueError, KeyError):
        pass  # never measured, or half of it
    run = measure or (lambda config, processes: side_by_side(root, config, processes, device))
    alone = {config.optimizer: run(config, 1) for config in group}
    hungriest = max(group, key=lambda config: alone[config.optimizer].memory_mb)
    loads = grow(lambda processes: run(hungriest, processes))
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "processes": len(loads),
        "hungriest": hungriest.optimizer,
        "optimizers": {name: asdict(load) for name, load in alone.items()},
        "loads": [asdict(load) for load in loads],
    }
    write_atomically(path, json.dumps(document, indent=1).encode())
    return len(loads)


# ---------------------------------------------------------------------- measuring


def side_by_side(root: Path, config: TrialConfig, processes: int, device: str, seconds: float = SECONDS) -> Load:
    """Train the same trial in so many processes at once, for some seconds after a warm-up.

    Args:
        root: The output folder, where a plugin is kept.
        config: The trial.
        processes: How many.
        device: Where.
        seconds: How long.

    Raises:
        torch.multiprocessing.ProcessRaisedException: One of them failed, for want of memory for example.
    """
    context = torch.multiprocessing.get_context("spawn")
    answers, together = context.SimpleQueue(), context.Barrier(processes)
    torch.multiprocessing.spawn(_train, (root, config, device, seconds, together, answers), nprocs=processes)
    found = [answers.get() for _ in range(processes)]
    return Load(
        processes=processes,
        steps_per_s=sum(steps_per_s for steps_per_s, _, _ in found),
        memory_mb=max(used for _, used, _ in found),
        capacity_mb=found[0][2],
    )


def _train(
    rank: int, root: Path, config: TrialConfig, device: str, seconds: float, together: Any, answers: Any
) -> None:
    """One process: steps per second, and the device's memory while all of them are at work."""
    torch.set_num_threads(1)
    if config.plugin:
        plugins.load(plugins.kept(root, config.plugin), config.plugin)
    trainer = Trainer(config.with_seed(rank), torch.device(device))
    _steps(trainer, lambda steps: steps >= WARM_UP_STEPS)
    together.wait()
    start = time.monotonic()
    steps = _steps(trainer, lambda steps: time.monotonic() - start >= seconds)
    steps_per_s = steps / (time.monotonic() - start)
    used, capacity = _memory_mb(trainer.device)
    together.wait()
    answers.put((steps_per_s, used, capacity))


def _steps(trainer: Trainer, stop: Callable[[int], bool]) -> int:
    """Train, epoch after epoch, until `stop(steps)` is true and the device has finished; return the steps."""
    load, taken = trainer.data.train_batches, 0

    def endless(batch_size: int, seed: int) -> Iterator[Batch]:
        nonlocal taken
        for batch in chain.from_iterable(load(batch_size, seed + epoch) for epoch in count()):
            if stop(taken):
                return
            taken += 1
            yield batch

    trainer.data.train_batches = endless  # type: ignore[method-assign]
    trainer._train_epoch(0, Phases(trainer.device))  # reads the losses at the end, and so waits for the device
    trainer.data.train_batches = load  # type: ignore[method-assign]
    return taken


def _memory_mb(device: torch.device) -> tuple[float, float]:
    """In use by everyone on a device, and what there is."""
    if device.type != "cuda":
        return 0.0, math.inf
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 2**20, total / 2**20
