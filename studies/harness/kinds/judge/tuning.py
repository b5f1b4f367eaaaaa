"""The tuning of the sides of a judgement, with the same budget for each.

The procedure is that of the recipes (`trainables.recipes.tuning`). The values that a side fixes are
not tuned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from precond.hyperparameters import HyperparameterError
from studies.harness.design.arms import Arm, Trial
from studies.harness.evidence import ledger as tables
from studies.harness.evidence.metrics import on_workload
from trainables.recipes.tuning import SEEDS, TRAIN_FRACTION, Ledger, Row, points, space_of
from trainables.store import COMPLETED


def trials(arm: Arm, budget: int, workload: str, recipe: Mapping[str, Any]) -> list[Trial]:
    """Return the trials that tune one side, configuration by configuration.

    Args:
        arm: The side.
        budget: The number of configurations.
        workload: The workload.
        recipe: The settings of the command that replace the recipe's.

    Raises:
        HyperparameterError: The side leaves nothing to tune, or a value is invalid.
    """
    space = {k: ends for k, ends in space_of(arm.optimizer).items() if k not in arm.overrides}
    if not space:
        raise HyperparameterError(f"--tune: {arm.label} fixes all hyperparameters that are tuned")
    fields = {**recipe, "train_fraction": TRAIN_FRACTION}
    results = []
    for values in points(space, budget):
        tried = tuned(arm, values)
        config = tried.resolve(workload, fields)
        results += [Trial(tried, config.with_seed(seed)) for seed in SEEDS]
    return results


def tuned(arm: Arm, values: Mapping[str, Any]) -> Arm:
    """Return a side with tuned values; its label stays the same."""
    return replace(arm, overrides={**arm.overrides, **values})


def best(arm: Arm, planned: Sequence[Trial], root: Path) -> Mapping[str, Any] | None:
    """Return the values with the best mean score; None if none has completed with all seeds.

    Args:
        arm: The side.
        planned: Its `trials`.
        root: The output folder.
    """
    metric, rows = on_workload("val/headline", planned[0].config.workload), []
    measured = tables.frame(planned, root).to_dict("records")
    for i, (trial, values) in enumerate(zip(planned, measured, strict=True)):
        score = values.get(metric, math.nan) if values["status"] == COMPLETED else math.nan
        chosen = {k: v for k, v in trial.arm.overrides.items() if k not in arm.overrides}
        number, seed = i // len(SEEDS), trial.config.seed
        rows.append(Row(arm.label, number, chosen, seed, values["status"], score))
    winner = Ledger(metric, rows).winner(arm.label)
    return None if winner is None else winner.values
