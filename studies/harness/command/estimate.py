"""Estimate the training time and the disk space of a plan before it is started. Writes nothing."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import precond
from studies.harness.command.options import Options
from studies.harness.evidence.metrics import duration
from studies.harness.kinds.study.study import Trial
from trainables.config import TrialConfig
from trainables.descent import build_optimizer
from trainables.files import read_lines
from trainables.store import read_config, trial_folders
from trainables.workloads import workload

PROBE_STEPS, PROBE_SECONDS = 20, 10.0
PROBE_PIXELS = 2**17  # largest batch in pixels: a whole batch of CIFAR, a small batch of ImageNet
LINE_BYTES, FOLDER_BYTES = 1_000, 8_000  # of an epoch's line; of the other files of a trial
KEPT_CHECKPOINTS = 3  # of a trial in flight: the last two, and a third while it is written

Cost = tuple[str, str]  # workload, optimizer
Rates = Mapping[Cost, Mapping[int, float]]  # seconds per epoch by batch size


@dataclass(frozen=True)
class Estimate:
    """The training time and the disk space of trials.

    Attributes:
        seconds: Training time of all trials, one after another.
        slots: Number of concurrent trials on this machine.
        disk: Upper bound of the disk space in bytes.
        probed: The optimizers whose steps were timed, because they have no committed epochs.
    """

    seconds: float
    slots: int
    disk: int
    probed: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.probed)
        steps = f"{PROBE_STEPS} steps of {names} on one CPU thread, without evaluation"
        source = steps if names else "committed epochs"
        trials = f"{self.slots} concurrent trial{'s' if self.slots > 1 else ''}"
        return (
            f"Training takes about {duration(self.seconds / self.slots)} with {trials} on this "
            f"machine, or {duration(self.seconds)} with one trial at a time (measured: {source}). "
            f"Disk space: at most {max(1, math.ceil(self.disk / 2**20))} MB."
        )


def estimate(trials: Sequence[Trial], options: Options) -> Estimate:
    """Return the estimate for trials that start from their first epoch."""
    rates, probes, seconds, slots = committed(options.root), {}, 0.0, _slots(options, len(trials))
    for config in (trial.config for trial in trials):
        key = config.workload, config.optimizer
        if key not in probes:
            probes[key] = probe(config, steps=0 if key in rates else PROBE_STEPS)
        seconds += config.epochs * _epoch_seconds(config, rates.get(key), probes[key][0])
    lines = sum(trial.config.epochs for trial in trials) * LINE_BYTES + len(trials) * FOLDER_BYTES
    state = max((size for _, size in probes.values()), default=0)
    probed = dict.fromkeys(key[1] for key in probes if key not in rates)
    return Estimate(seconds, slots, lines + slots * KEPT_CHECKPOINTS * state, tuple(probed))


def committed(root: Path) -> dict[Cost, dict[int, float]]:
    """Return the median seconds per epoch, with evaluation, of the trials in an output folder."""
    medians: dict[Cost, dict[int, list[float]]] = {}
    for folder in trial_folders(root):
        config = read_config(folder)["config"]
        epochs = [line["metrics"] for line in read_lines(folder / "epochs.jsonl")]
        seconds = [
            metrics["time/train_s"] + metrics["time/eval_s"]
            for metrics in epochs
            if "time/eval_s" in metrics
        ]
        if seconds:
            sizes = medians.setdefault((config["workload"], config["optimizer"]), {})
            sizes.setdefault(config["batch_size"], []).append(median(seconds))
    return {
        key: {size: median(values) for size, values in sizes.items()}
        for key, sizes in medians.items()
    }


def _epoch_seconds(
    config: TrialConfig, known: Mapping[int, float] | None, per_example: float
) -> float:
    if known:
        return known[min(known, key=lambda size: abs(math.log(size / config.batch_size)))]
    return per_example * workload(config.workload).source.train_examples * config.train_fraction


def probe(config: TrialConfig, steps: int = PROBE_STEPS) -> tuple[float, int]:
    """Time some steps on one thread, with random inputs or with the examples of a plugin.

    Returns the training seconds per example, and the bytes of a checkpoint.

    Args:
        config: The trial. A batch of more than `PROBE_PIXELS` pixels is made smaller.
        steps: The number of steps to time after a first, untimed step; 0 for none.
    """
    target, threads = workload(config.workload), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pixels = max(target.fit(config.settings).size, 1) ** 2
        examples = min(config.batch_size, max(2, PROBE_PIXELS // pixels))
        inputs, targets = target.random_batch(examples, config.settings)
        model = target.build(config.settings)
        optimizer = build_optimizer(config, model)

        def step() -> None:
            optimizer.zero_grad()
            precond.backward(target.task.loss(model(inputs), targets), optimizer)
            optimizer.step()

        step()
        start, done = time.perf_counter(), 0
        while done < steps and time.perf_counter() - start < PROBE_SECONDS:
            step()
            done += 1
        spent = (time.perf_counter() - start) / max(done, 1) / len(tree_leaves(targets)[0])
        leaves = tree_leaves([model.state_dict(), optimizer.state_dict()])
        return spent, sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
    finally:
        torch.set_num_threads(threads)


def _slots(options: Options, trials: int) -> int:
    fitting = len(os.sched_getaffinity(0)) // options.workers_per_trial
    if options.gpus_per_trial and torch.cuda.is_available():
        fitting = min(fitting, int(torch.cuda.device_count() / options.gpus_per_trial))
    return max(1, min(options.max_concurrent or fitting, fitting, trials))
