"""What a configuration costs if nothing else runs, from the cost benchmark's files.

A trial's own seconds are measured beside other trials, so they cannot be compared. These can: the step of exactly that
configuration, timed alone (`trainables.cost`); without a file, the command that times it.
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
    "Seconds per epoch = steps per epoch x the step's time, measured on the named hardware while nothing else ran, "
    "+ the time of evaluating the test set; without reading and augmenting images. The interval is that of the step's "
    "median over interleaved blocks (95%, from order statistics)."
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The benchmark's result for one configuration on some hardware.

    Attributes:
        hardware: The GPU's name, or the processor's with its threads.
        epoch: Seconds per epoch, evaluation included.
        ratio: Time of a step over SGD's.
        memory: Peak memory over SGD's.
        peak: Peak memory in bytes.
        device_memory: True for the memory that a GPU's allocator gave out, not that of a whole process.
    """

    hardware: str
    epoch: Median
    ratio: Median
    memory: float
    peak: float
    device_memory: bool


@dataclass(frozen=True)
class Costs:
    """What a plan's arms cost.

    Attributes:
        machines: By hardware, each arm's cost, or None if it was not measured there.
        unmeasured: One trial of each arm whose cost is known on no hardware.
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
    """Return `OUT/cost/<hardware>` of every hardware that was measured on."""
    return sorted(path for path in root.glob("cost/*") if path.is_dir())


def find(config: TrialConfig, folder: Path) -> Cost | None:
    """Return the cost of exactly this configuration on a folder's hardware; None if it was not measured."""
    path = folder / cost_files.result_name(config)
    if _untimed(config) or not path.exists():
        return None
    result, source = json.loads(path.read_text()), workload(config.workload).source
    steps = source.train_examples // config.batch_size  # the last, smaller batch is dropped
    epoch = cost_files.seconds_per_epoch(config, folder, steps, source.test_examples)
    assert epoch is not None
    peak, conditions = result["memory"]["peak_bytes"], result["conditions"]
    processor = folder.name.endswith("threads")
    return Cost(
        hardware=conditions["hardware"]
        + (f", {conditions['threads']} threads" if processor else ""),
        epoch=epoch,
        ratio=Median(**result["against"]["sgd"]["ratio"]),
        memory=peak / result["sgd_memory"]["peak_bytes"],
        peak=peak,
        device_memory=not processor,
    )


def commands(trials: Iterable[Trial]) -> list[str]:
    """Return the fewest commands that time some configurations, and a line for each that the benchmark cannot time."""
    together: dict[tuple[str, ...], dict[str, None]] = {}
    refused: dict[str, None] = {}
    for arm, config in trials:
        if reason := _untimed(config):
            refused[f"{arm.label}: the benchmark cannot time {reason}"] = None
        else:
            together.setdefault(_flags(config, arm.as_released), {})[config.optimizer] = None
    lines = [
        [*COMMAND, *flags, f"--optimizers={','.join(names)}"] for flags, names in together.items()
    ]
    return [*map(shlex.join, lines), *refused]


def _untimed(config: TrialConfig) -> str:
    """Return the settings that the benchmark does not support; empty if the configuration can be timed."""
    odd = {
        name: getattr(config, name)
        for name, plain in TIMED.items()
        if getattr(config, name) != plain
    }
    resolution = config.settings.get("resolution")
    if not odd and resolution != workload(config.workload).settings({}).get("resolution"):
        odd = {"resolution": resolution}
    return ", ".join(f"{name} = {value}" for name, value in odd.items())


def _flags(config: TrialConfig, as_released: bool) -> tuple[str, ...]:
    """Return the benchmark's flags: the arm that a configuration is nearer to, and its differences from that."""
    values = _relevant(config)
    arms = (as_released, not as_released)
    recipes = {
        arm: _relevant(resolve(config.workload, config.optimizer, as_released=arm)) for arm in arms
    }
    differing = {
        arm: [name for name in values if values[name] != recipes[arm][name]] for arm in arms
    }
    arm = min(arms, key=lambda arm: len(differing[arm]))  # the given one, if both are as near
    flags = [config.workload, f"--batch-size={config.batch_size}"]
    flags += ["--as-released"] if arm and find_recipe(config.workload).as_released else []
    flags += ["--channels-last"] if config.channels_last else []
    return (
        *flags,
        *(f"--set={name}={json.dumps(config.hyperparameters[name])}" for name in differing[arm]),
    )


def _relevant(config: TrialConfig) -> dict[str, Any]:
    """Return the hyperparameters that decide a cost."""
    resolved = (config.workload, config.optimizer, config.hyperparameters, config.batch_size)
    return cost_files.configuration(*resolved)["hyperparameters"]
