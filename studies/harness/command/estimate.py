"""Estimate the training time and the disk space of a plan before it is started. Writes nothing."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

import precond
from precond import closures
from precond.counts import counted
from studies.harness.command.limited import OverLimitError, limited
from studies.harness.command.options import Options
from studies.harness.evidence.metrics import duration
from studies.harness.kinds.study.study import Trial
from trainables.config import TrialConfig
from trainables.descent import build_optimizer
from trainables.files import read_lines
from trainables.store import read_config, trial_folders
from trainables.tasks import Task
from trainables.workloads import workload

PROBE_STEPS, PROBE_SECONDS = 20, 10.0
TOTAL_SECONDS = 15.0  # of the probes of all optimizers together
PROBE_PIXELS = 2**17  # largest batch in pixels: a whole batch of CIFAR, a small batch of ImageNet
FEWEST = 4  # steps for which the size of the batch leaves time
LINE_BYTES, FOLDER_BYTES = 1_000, 8_000  # of an epoch's line; of the other files of a trial
KEPT_CHECKPOINTS = 3  # of a trial in flight: the last two, and a third while it is written

Cost = tuple[str, str]  # workload, optimizer
Rates = Mapping[Cost, Mapping[int, float]]  # seconds per epoch by batch size


class Probe(NamedTuple):
    """The result of a probe.

    Attributes:
        seconds: Training seconds per example.
        size: Bytes of a checkpoint.
        examples: The number of examples in a batch of the probe.
    """

    seconds: float
    size: int
    examples: int


@dataclass(frozen=True)
class Estimate:
    """The training time and the disk space of trials.

    Attributes:
        seconds: Training time of all trials, one after another.
        slots: Number of concurrent trials on this machine.
        disk: Upper bound of the disk space in bytes.
        probed: The optimizers whose steps were timed, because they have no committed epochs.
        unknown: The optimizers whose steps exceeded the limits of a probe. The seconds and the disk
            space do not include their trials.
        batches: The smallest and the largest number of examples in the batches of probes, if they
            were smaller than those of the trials.
    """

    seconds: float
    slots: int
    disk: int
    probed: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    batches: tuple[int, int] | None = None

    def __str__(self) -> str:
        names, missing = ", ".join(self.probed), ", ".join(self.unknown)
        limits = f"{TOTAL_SECONDS:.0f} s for all optimizers, half of the free memory"
        if missing and not self.seconds:
            reason = f"the steps of {missing} exceed the limits of a dry run ({limits})"
            return f"The training time is not estimated, because {reason}."
        sizes = " to ".join(map(str, dict.fromkeys(self.batches or ())))
        batch = f" with smaller batches ({sizes} examples)" if sizes else ""
        steps = (
            f"at most {PROBE_STEPS} steps of {names}{batch} on one CPU thread, without evaluation"
        )
        source = steps if names else "committed epochs"
        excluded = f" Not included: {missing}, which exceed the limits of a dry run ({limits})."
        trials = counted(self.slots, "concurrent trial")
        return (
            f"Training takes about {duration(self.seconds / self.slots)} with {trials} on this "
            f"machine, or {duration(self.seconds)} with one trial at a time (measured: {source}). "
            f"Disk space: at most {max(1, math.ceil(self.disk / 2**20))} MB."
            f"{excluded if missing else ''}"
        )


def estimate(trials: Sequence[Trial], options: Options) -> Estimate:
    """Return the estimate for trials that start from their first epoch.

    Raises:
        MeasurementError: A step of an optimizer raised an error.
    """
    rates, slots = committed(options.root), _slots(options, len(trials))
    configs: dict[Cost, TrialConfig] = {}
    for trial in trials:
        configs.setdefault(_cost(trial.config), trial.config)
    probes = _probes(configs, rates)
    included = [trial.config for trial in trials if _cost(trial.config) in probes]
    seconds = sum(
        config.epochs * _epoch_seconds(config, rates.get(_cost(config)), probes[_cost(config)])
        for config in included
    )
    lines = sum(c.epochs for c in included) * LINE_BYTES + len(included) * FOLDER_BYTES
    state = max((probe.size for probe in probes.values()), default=0)
    timed = [key for key in probes if key not in rates]
    smaller = {
        probes[key].examples for key in timed if probes[key].examples < configs[key].batch_size
    }
    return Estimate(
        seconds,
        slots,
        disk=lines + slots * KEPT_CHECKPOINTS * state,
        probed=tuple(dict.fromkeys(key[1] for key in timed)),
        unknown=tuple(dict.fromkeys(key[1] for key in configs if key not in probes)),
        batches=(min(smaller), max(smaller)) if smaller else None,
    )


def _cost(config: TrialConfig) -> Cost:
    return config.workload, config.optimizer


def _probes(configs: Mapping[Cost, TrialConfig], rates: Rates) -> dict[Cost, Probe]:
    """Return the results of `probe` for the optimizers that do not exceed the limits.

    The probes share `TOTAL_SECONDS`: what one of them does not use is left for the others.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    probes = {key: Probe(0.0, 0, 0) for key in configs if key in rates}
    for number, (key, config) in enumerate(configs.items()):
        seconds = (deadline - time.monotonic()) / (len(configs) - number)
        steps = 0 if key in rates else PROBE_STEPS
        with suppress(OverLimitError):
            probes[key] = Probe(*limited(partial(probe, config, steps, seconds / 2), seconds))
    return probes


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


def _epoch_seconds(config: TrialConfig, known: Mapping[int, float] | None, probe: Probe) -> float:
    if known:
        return nearest_rate(known, config.batch_size)
    return probe.seconds * workload(config.workload).source.train_examples * config.train_fraction


def nearest_rate(known: Mapping[int, float], batch_size: int) -> float:
    """Return the seconds per epoch of the measured batch size that is nearest in its logarithm."""
    return known[min(known, key=lambda size: abs(math.log(size / batch_size)))]


def probe(config: TrialConfig, steps: int = PROBE_STEPS, seconds: float = PROBE_SECONDS) -> Probe:
    """Time some steps on one thread, with random inputs or with the examples of a plugin.

    The first step, of two examples, also computes the first factors of a preconditioner. The second
    one gives the size of the batches whose steps are timed: that of the trial, unless these steps
    would take too long or a batch would have more than `PROBE_PIXELS` pixels.

    The time of the forward and backward pass is divided by the examples of the batch. The time of
    `optimizer.step()` does not depend on them, so it is divided by the examples of the trial's
    batch.

    Args:
        config: The trial.
        steps: The number of steps to time; 0 to time none and only count the bytes.
        seconds: No step begins after this time, except the first two.
    """
    target, threads = workload(config.workload), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        end = time.perf_counter() + min(seconds, PROBE_SECONDS)
        examples = min(config.batch_size, 2)
        batch = target.random_batch(examples, config.settings)
        model = target.build(config.settings)
        optimizer = build_optimizer(config, model)
        step = partial(_step, target.task, model, optimizer)
        step(*batch)
        leaves = tree_leaves([model.state_dict(), optimizer.state_dict()])
        size = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        if not steps:
            return Probe(0.0, size, examples)
        times = [step(*batch)]
        largest = _batch_size(config, examples / sum(times[0]), end - time.perf_counter())
        if largest > examples:
            examples = largest
            batch = target.random_batch(examples, config.settings)
            times = [step(*batch)]
        while len(times) < steps and time.perf_counter() < end:
            times.append(step(*batch))
        backward, update = map(mean, zip(*times, strict=True))
        return Probe(backward / examples + update / config.batch_size, size, examples)
    finally:
        torch.set_num_threads(threads)


def _batch_size(config: TrialConfig, rate: float, seconds: float) -> int:
    """Return the largest batch size of a probe.

    Args:
        config: The trial.
        rate: Examples per second.
        seconds: The time for `FEWEST` steps.
    """
    pixels = max(workload(config.workload).fit(config.settings).size, 1) ** 2
    return min(config.batch_size, PROBE_PIXELS // pixels, int(rate * seconds / FEWEST))


def _step(
    task: Task, model: nn.Module, optimizer: Optimizer, inputs: Any, targets: Any
) -> tuple[float, float]:
    """Train a step; return the seconds of its passes and those of the optimizer's update."""
    passes: list[float] = []

    def evaluate() -> None:
        before = time.perf_counter()
        optimizer.zero_grad()
        precond.backward(task.loss(model(inputs), targets), optimizer)
        passes.append(time.perf_counter() - before)

    start = time.perf_counter()
    closures.step(optimizer, evaluate)
    return sum(passes), time.perf_counter() - start - sum(passes)


def _slots(options: Options, trials: int) -> int:
    fitting = len(os.sched_getaffinity(0)) // options.workers_per_trial
    if options.gpus_per_trial and torch.cuda.is_available():
        fitting = min(fitting, int(torch.cuda.device_count() / options.gpus_per_trial))
    return max(1, min(options.max_concurrent or fitting, fitting, trials))
