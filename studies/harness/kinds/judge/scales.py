"""Reads the metric and the margin of a judgement on a workload."""

from __future__ import annotations

import math
import re

from precond.hyperparameters import HyperparameterError
from studies.harness.evidence.metrics import (
    EPOCHS_TO_TARGET,
    SECONDS_TO_TARGET,
    higher_is_better,
    on_workload,
    step,
    unit,
)
from studies.harness.evidence.scale import Scale

TIMES = (EPOCHS_TO_TARGET, SECONDS_TO_TARGET)
ALIASES = {"time_to_target": SECONDS_TO_TARGET}


def scale(metric: str, margin: str, workload: str) -> Scale:
    """Return the scale of a metric on a workload.

    Errors and times are compared by their ratios, and other metrics by their differences.

    Args:
        metric: The value of `--metric`.
        margin: The value of `--margin`.
        workload: The workload.

    Raises:
        HyperparameterError: The workload has no such metric, or the margin has another unit.
    """
    metric = ALIASES.get(metric, metric)
    if metric not in TIMES:
        metric = on_workload(metric, workload)
        if metric != "train/loss" and not metric.startswith("test/"):
            rule = f"must be test/..., train/loss, {EPOCHS_TO_TARGET} or {SECONDS_TO_TARGET}"
            raise HyperparameterError(f'--metric = "{metric}": {rule}')
    ratio = not higher_is_better(metric)
    return Scale(workload, metric, ratio, _margin(margin, metric, ratio), step(metric, workload))


def _margin(text: str, metric: str, ratio: bool) -> float:
    """Return a margin in units of the gain."""
    match = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?)(%|pp)?", text)
    try:
        value = float(match[1]) if match else math.nan
    except ValueError:
        value = math.nan
    if value == 0:
        return 0.0
    percent = unit(metric).percent
    kind = "%" if ratio else "pp" if percent else None
    if not (0 < value < math.inf) or match is None or match[2] != kind:
        form = {"%": "a percentage such as 5%", "pp": "percentage points such as 0.3pp"}
        rule = f"{form.get(kind or '', 'a number')}, or 0"
        raise HyperparameterError(f"--margin = {text}: for {metric}, must be {rule}")
    return math.log1p(value / 100) if ratio else value / 100 if percent else value
