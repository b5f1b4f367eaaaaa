"""What a configuration costs when nothing else runs: read from the cost benchmark's files, never from trials.

A trial's own seconds are measured beside other trials and compare nothing. Here is what compares: the step of exactly
that configuration, timed alone (`trainables.cost`), or the command that times it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.harness.kinds.study.study import Arm, Trial
from studies.harness.report.document import Block, Heading, Table, Text
from trainables.config import TrialConfig
from trainables.cost import files as cost_files
from trainables.cost.intervals import Median
from trainables.workloads import resolve, stated_recipe, workload

COMMAND = ("python", "-m", "trainables.cost")
NOT_MEASURED = "not measured"
TIMED = {"precision": "float32", "compile": False, "workers": 1, "train_fraction": 1.0, "plugin": None}
HOW = (
    "Seconds per epoch = steps per epoch x the step's time, measured on the named hardware while nothing else ran, "
    "+ the time of evaluating the test set; without reading and augmenting images. The interval is that of the step's "
    "median over interleaved blocks (95%, from order statistics)."
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the benchmark found for one configuration on some hardware.

    Attributes:
        hardware: The GPU's name, or the processor's with its threads.
        epoch: Seconds per epoch, evaluation included.
        ratio: Time of a step over SGD's.
        memory: Peak memory over SGD's.
        peak: Peak memory in bytes.
        device_memory: Whether that is what a GPU's allocator gave out, not the memory of a whole process.
    """

    hardware: str
    epoch: Median
    ratio: Median
    memory: float
    peak: float
    device_memory: bool


def folders(root: Path) -> list[Path]:
    """`OUT/cost/<hardware>` of everything that was measured on."""
    return sorted(path for path in root.glob("cost/*") if path.is_dir())


def find(config: TrialConfig, folder: Path) -> Cost | None:
    """The cost of exactly this configuration on a folder's hardware; None where it was not measured."""
    path = folder / cost_files.result_name(config)
    if _untimed(config) or not path.exists():
        return None
    result, source = json.loads(path.read_text()), workload(config.workload).source
    steps = source.train_examples // config.batch_size  # the last, smaller batch is dropped
    epoch = cost_files.seconds_per_epoch(config, folder, steps, source.test_examples)
    assert epoch is not None
    peak = result["memory"]["peak_bytes"]
    return Cost(
        hardware=_hardware(result["conditions"], folder),
        epoch=epoch,
        ratio=Median(**result["against"]["sgd"]["ratio"]),
        memory=peak / result["sgd_memory"]["peak_bytes"],
        peak=peak,
        device_memory=not _threads(folder),
    )


def seconds_per_epoch(config: TrialConfig, root: Path, faithful: bool = False) -> dict[str, Median] | str:
    """Seconds per epoch of a configuration by hardware, or the command that measures them.

    Args:
        config: Of a trial.
        root: The output folder.
        faithful: Whether its arm is the faithful one, for the shortest command.
    """
    found = [cost for folder in folders(root) if (cost := find(config, folder))]
    if found:
        return {cost.hardware: cost.epoch for cost in found}
    return commands([Trial(Arm(optimizer=config.optimizer, faithful=faithful), config)])[0]


def commands(trials: Iterable[Trial]) -> list[str]:
    """The fewest commands that time some configurations, and a line for each that the benchmark cannot time."""
    together: dict[tuple[str, ...], dict[str, None]] = {}
    refused: dict[str, None] = {}
    for arm, config in trials:
        if why := _untimed(config):
            refused[f"{arm.label}: the benchmark cannot time {why}"] = None
        else:
            together.setdefault(_flags(config, arm.faithful), {})[config.optimizer] = None
    return [
        shlex.join([*COMMAND, *flags, f"--optimizers={','.join(names)}"]) for flags, names in together.items()
    ] + list(refused)


def _hardware(conditions: Mapping[str, Any], folder: Path) -> str:
    """What was measured on; of a processor the threads are part."""
    return conditions["hardware"] + (f", {conditions['threads']} threads" if _threads(folder) else "")


def _threads(folder: Path) -> bool:
    """Whether a folder's hardware is a processor: its name ends with the threads."""
    return folder.name.endswith("threads")


def _untimed(config: TrialConfig) -> str:
    """What a configuration has that the benchmark does not; empty where it can be timed."""
    odd = {name: getattr(config, name) for name, plain in TIMED.items() if getattr(config, name) != plain}
    own = config.settings.get("resolution")
    if not odd and own != workload(config.workload).settings({}).get("resolution"):
        odd = {"resolution": own}
    return ", ".join(f"{name} = {value}" for name, value in odd.items())


def _flags(config: TrialConfig, faithful: bool) -> tuple[str, ...]:
    """What the benchmark must be told: the arm that a configuration is nearer to, and what it has differently."""
    own = _relevant(config)
    differing = {}
    for arm in (faithful, not faithful):
        recipe = _relevant(resolve(config.workload, config.optimizer, faithful=arm))
        differing[arm] = [name for name in own if own[name] != recipe[name]]
    arm = min(differing, key=lambda arm: len(differing[arm]))  # as stated, where both are as near
    flags = [config.workload, f"--batch-size={config.batch_size}"]
    flags += ["--faithful"] if arm and stated_recipe(config.workload).faithful else []
    flags += ["--channels-last"] if config.channels_last else []
    return (*flags, *(f"--set={name}={json.dumps(config.hyperparameters[name])}" for name in differing[arm]))


def _relevant(config: TrialConfig) -> dict[str, Any]:
    """The hyperparameters that decide a cost, as far as they do."""
    given = (config.workload, config.optimizer, config.hyperparameters, config.batch_size)
    return cost_files.configuration(*given)["hyperparameters"]


# ---------------------------------------------------------------------- for reports


def first_trials(trials: Sequence[Trial]) -> dict[str, Trial]:
    """One trial of each arm by its label, in the order of the plan."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(trial.arm.label, trial)
    return found


def blocks(trials: Sequence[Trial], root: Path) -> list[Block]:
    """Every arm's seconds per epoch, a table for each hardware, and the commands for what was not measured."""
    arms = first_trials(trials)
    found: list[Block] = [Heading("Seconds per epoch")]
    measured = [folder for folder in folders(root) if any(find(t.config, folder) for t in arms.values())]
    for number, folder in enumerate(measured):
        costs = {label: find(trial.config, folder) for label, trial in arms.items()}
        machine = next(cost.hardware for cost in costs.values() if cost)
        rows = [
            [label, *([shown(cost.epoch, 2), shown(cost.ratio, 3)] if cost else [NOT_MEASURED, "-"])]
            for label, cost in costs.items()
        ]
        header = ["arm", "s/epoch", "step / SGD's"]
        caption = f"Seconds per epoch on {machine}."
        found += [Text(machine, label="Hardware"), Table(f"seconds-{number}", header, rows, caption=caption)]
    unknown = [t for t in arms.values() if not any(find(t.config, folder) for folder in measured)]
    return [*found, Text(HOW, note=True), *missing(unknown)]


def missing(trials: Iterable[Trial]) -> list[Block]:
    """The commands for configurations that were measured on no hardware."""
    lines = commands(trials)
    items = tuple(f"`{line}`" if line.startswith(COMMAND[0]) else line for line in lines)
    words = f"{NOT_MEASURED}; on a machine that does nothing else:"
    return [Text(words, label="Costs", items=items)] if items else []


def shown(value: Median, decimals: int) -> str:
    """`0.95 [0.94, 0.97]`."""
    middle, low, high = (f"{x:.{decimals}f}" for x in (value.median, value.low, value.high))
    return f"{middle} [{low}, {high}]"
