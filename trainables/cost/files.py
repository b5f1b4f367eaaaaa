"""The files of the cost benchmark's results: their folder, names and contents."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.config import TrialConfig, digest
from trainables.cost.intervals import Median

SCHEMA = 1
EXECUTION = {"channels_last": False, "precision": "float32", "compile": False, "resolution": None}


def configuration(
    workload: str,
    optimizer: str,
    hyperparameters: Mapping[str, Any],
    batch_size: int,
    **execution: Any,
) -> dict[str, Any]:
    """Return all values that determine the cost of an optimizer on given hardware.

    Hyperparameters that do not affect the cost, such as the learning rate, are omitted.

    Args:
        workload: `DATASET/MODEL`.
        optimizer: Name of a registered or released optimizer.
        hyperparameters: All hyperparameters of the optimizer.
        batch_size: Examples per step.
        **execution: Values that differ from `EXECUTION`.
    """
    settings = {k: _cost_relevant(v) for k, v in hyperparameters.items() if k not in ("lr", "seed")}
    return {
        "workload": workload,
        "optimizer": optimizer,
        "hyperparameters": settings,
        "batch_size": batch_size,
        **EXECUTION,
        **execution,
    }


def _cost_relevant(value: Any) -> Any:
    # The cost depends only on whether a real number is zero: damping 0.1 and 1 take equal times.
    if isinstance(value, (list, tuple)):
        return [_cost_relevant(part) for part in value]
    return value != 0 if isinstance(value, float) else value


def result_name(config: TrialConfig) -> str:
    """Return the name of the file that stores the cost of a trial's configuration."""
    execution = {name: getattr(config, name) for name in ("channels_last", "precision", "compile")}
    execution["resolution"] = config.settings.get("resolution")
    parts = config.workload, config.optimizer, config.hyperparameters, config.batch_size
    return file_name(configuration(*parts, **execution))


def file_name(configuration: Mapping[str, Any]) -> str:
    """Return the name of the file that stores the cost of a `configuration(...)`."""
    return f"{configuration['optimizer'].replace(':', '-')}-{digest(configuration)[:16]}.json"


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor for a CPU device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def results_folder(out: Path, device: torch.device, threads: int) -> Path:
    """Return the folder of this hardware's results; for a CPU its name includes `threads`."""
    name = hardware(device) + ("" if device.type == "cuda" else f" {threads} threads")
    return out / "cost" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def seconds_per_epoch(
    config: TrialConfig, folder: Path, steps: int, test_examples: int
) -> Median | None:
    """Return the seconds of an epoch on otherwise idle hardware, from its stored measurements.

    Args:
        config: The trial.
        folder: The folder of the hardware's results, `results_folder(...)`.
        steps: Number of steps in an epoch.
        test_examples: Number of examples that are evaluated after the epoch.

    Returns:
        The seconds of the steps and the evaluation, with the interval of the steps; None if the
        cost of the trial's configuration was not measured.
    """
    path = folder / result_name(config)
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    step = result["step_seconds"]
    evaluation = test_examples * result["evaluation_seconds_per_example"]
    return Median(*(steps * step[key] + evaluation for key in ("median", "low", "high")))
