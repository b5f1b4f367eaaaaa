"""Time and memory of configurations, read from the files of the cost benchmark.

The seconds in a trial's folder are measured while other trials run on the same machine, so they
cannot be compared. The benchmark (`trainables.cost`) times the step of exactly one configuration
while nothing else runs. For a configuration without a file, this module returns the command that
times it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.harness.design.arms import Trial, first_trials
from trainables.config import TrialConfig
from trainables.cost import files as cost_files
from trainables.cost.intervals import Median
from trainables.workloads import find_recipe, resolve, workload

COMMAND = ("python", "-m", "trainables.cost")
NOT_MEASURED = "not measured"
TIMED = {
    "precision": "float32",
    "compile": False,
    "workers": 1,
    "train_fraction": 1.0,
    "plugin": None,
}
HOW = (
    "Seconds per epoch are the steps per epoch times the time of one step, plus the time to "
    "evaluate the test set. Both times were measured on the named hardware while nothing else ran; "
    "reading and augmenting images is not included. The step time is the median over blocks of "
    "steps, which alternate with those of SGD; the 95% interval in brackets is that of this median "
    "(from order statistics)."
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The benchmark's result for one configuration on one machine.

    Attributes:
        hardware: Name of the GPU, or of the processor with the number of threads.
        epoch: Seconds per epoch, including evaluation.
        ratio: Time of a step divided by that of SGD.
        memory: Peak memory divided by that of SGD.
        peak: Peak memory in bytes.
        device_memory: True if the memory is that of a GPU's allocator, False if it is that of the
            whole process.
    """

    hardware: str
    epoch: Median
    ratio: Median
    memory: float
    peak: float
    device_memory: bool


@dataclass(frozen=True)
class Costs:
    """The costs of a plan's arms.

    Attributes:
        machines: For each hardware, the cost of each arm, or None if it was not measured there.
        unmeasured: One trial of each arm that was measured on no hardware.
    """

    machines: Mapping[str, Mapping[str, Cost | None]]
    unmeasured: Sequence[Trial]


def read(trials: Sequence[Trial], root: Path) -> Costs:
    """Return the costs of a plan's arms from an output folder."""
    arms, machines = first_trials(trials), {}
    for folder in folders(root):
        costs = {label: find(trial.config, folder) for label, trial in arms.items()}
        if names := [cost.hardware for cost in costs.values() if cost]:
            machines[names[0]] = costs
    known = {label for costs in machines.values() for label, cost in costs.items() if cost}
    return Costs(machines, [trial for label, trial in arms.items() if label not in known])


def folders(root: Path) -> list[Path]:
    """Return the folders `OUT/cost/<hardware>`, one for each hardware with measurements."""
    return sorted(path for path in root.glob("cost/*") if path.is_dir())


def find(config: TrialConfig, folder: Path) -> Cost | None:
    """Return the cost of exactly this configuration on a folder's hardware, or None."""
    path = folder / cost_files.result_name(config)
    if _untimed(config) or not path.exists():
        return None
    result, source = json.loads(path.read_text()), workload(config.workload).source
    steps = source.train_examples // config.batch_size  # the last, smaller batch is dropped
    epoch = cost_files.seconds_per_epoch(config, folder, steps, source.test_examples)
    assert epoch is not None
    peak, conditions = result["memory"]["peak_bytes"], result["conditions"]
    processor = folder.name.endswith("threads")
    threads = f", {conditions['threads']} threads" if processor else ""
    return Cost(
        hardware=conditions["hardware"] + threads,
        epoch=epoch,
        ratio=Median(**result["against"]["sgd"]["ratio"]),
        memory=peak / result["sgd_memory"]["peak_bytes"],
        peak=peak,
        device_memory=not processor,
    )


def commands(trials: Iterable[Trial]) -> list[str]:
    """Return as few commands as possible that together time the configurations of `trials`.

    The list ends with one line for each configuration that the benchmark does not support.
    """
    optimizers: dict[tuple[str, ...], dict[str, None]] = {}  # by the flags of the command
    unsupported: dict[str, None] = {}
    for arm, config in trials:
        if reason := _untimed(config):
            unsupported[f"{arm.label}: the benchmark does not support {reason}"] = None
        else:
            optimizers.setdefault(_flags(config, arm.as_released), {})[config.optimizer] = None
    lines = [
        [*COMMAND, *flags, f"--optimizers={','.join(names)}"] for flags, names in optimizers.items()
    ]
    return [*map(shlex.join, lines), *unsupported]


def _untimed(config: TrialConfig) -> str:
    """Return the settings that the benchmark does not support; empty if the configuration can be timed."""
    unsupported = {
        name: getattr(config, name)
        for name, supported in TIMED.items()
        if getattr(config, name) != supported
    }
    resolution = config.settings.get("resolution")
    if not unsupported and resolution != workload(config.workload).settings({}).get("resolution"):
        unsupported = {"resolution": resolution}
    return ", ".join(f"{name} = {value}" for name, value in unsupported.items())


def _flags(config: TrialConfig, as_released: bool) -> tuple[str, ...]:
    """Return the benchmark's flags for a configuration.

    The flags select the variant (as-released or corrected) with fewer differences from the
    configuration, and set these differences. If both have equally many, `as_released` decides.
    """
    values = _relevant(config)
    arms = (as_released, not as_released)
    recipes = {
        arm: _relevant(resolve(config.workload, config.optimizer, as_released=arm)) for arm in arms
    }
    differing = {
        arm: [name for name in values if values[name] != recipes[arm][name]] for arm in arms
    }
    arm = min(arms, key=lambda arm: len(differing[arm]))
    flags = [config.workload, f"--batch-size={config.batch_size}"]
    flags += ["--as-released"] if arm and find_recipe(config.workload).as_released else []
    flags += ["--channels-last"] if config.channels_last else []
    return (
        *flags,
        *(f"--set={name}={json.dumps(config.hyperparameters[name])}" for name in differing[arm]),
    )


def _relevant(config: TrialConfig) -> dict[str, Any]:
    """Return the hyperparameters that affect the cost."""
    resolved = (config.workload, config.optimizer, config.hyperparameters, config.batch_size)
    return cost_files.configuration(*resolved)["hyperparameters"]
