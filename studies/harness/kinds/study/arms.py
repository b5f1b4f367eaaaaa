"""The arms of a study that a command selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from precond.registry import lookup, name_error
from studies.harness.design.arms import Arm, levels_of
from studies.harness.design.options import SMOKE_EPOCHS, SMOKE_LEVELS, Options
from studies.harness.kinds.study.study import Study
from trainables.workloads import RECIPE_SETTINGS, settable


def study_on_workload(study: Study, workload: str, options: Options) -> Study:
    """Return the study with its arms on a workload.

    An arm is added for each optimizer in `--optimizers` that the study does not have, if it is a
    plugin's, if its name begins with `pytorch-optimizer:`, or if the study accepts any optimizer
    (`Study.any_optimizer`). The arms of a study that accepts any optimizer have the order of the
    command.
    """
    arms, names = study.arms_of(workload), list(dict.fromkeys(options.optimizers or []))
    added = [
        name
        for name in names
        if not name_error(name) and (study.any_optimizer or lookup(name).external)
    ]
    known = {arm.optimizer for arm in arms}
    arms += [Arm(optimizer=name) for name in added if name not in known]
    if study.any_optimizer:
        place = {name: number for number, name in enumerate(names)}
        arms.sort(key=lambda arm: place.get(arm.optimizer, len(place)))
    return replace(study, arms=arms, arms_on={}, workload=workload)


def with_epochs(study: Study, options: Options) -> dict[str, list[Any]]:
    """Return the levels of the command. If the study varies the epochs, `--epochs` is a level."""
    epochs = SMOKE_EPOCHS if options.smoke and options.epochs is None else options.epochs
    if epochs is None or "epochs" in options.levels or "epochs" not in levels_of(study.arms):
        return options.levels
    return {**options.levels, "epochs": [epochs]}


def with_levels(arms: Sequence[Arm], levels: dict[str, list[Any]]) -> list[Arm]:
    """Return the arms with `levels` instead of the study's levels, without duplicates."""
    for factor, values in levels.items():
        varied = [
            replace(arm, overrides={**arm.overrides, factor: level})
            if factor in arm.factors
            else arm
            for arm in arms
            for level in values
        ]
        arms = list({(arm.label, str(arm.overrides)): arm for arm in varied}.values())
    return list(arms)


def with_settings(arm: Arm, settings: dict[str, Any]) -> Arm:
    """Return the arm with those settings that are hyperparameters of its optimizer."""
    known = settable(arm.optimizer) - {*RECIPE_SETTINGS}
    hyperparameters = {name: value for name, value in settings.items() if name in known}
    return replace(arm, overrides={**arm.overrides, **hyperparameters})


def is_selected(arm: Arm, options: Options) -> bool:
    """Return True if `--optimizers` and `--only` select the arm.

    `--only` selects every arm that does not have the factor.
    """
    if options.optimizers and arm.optimizer not in options.optimizers:
        return False
    return all(arm.overrides[f] in levels for f, levels in options.only.items() if f in arm.factors)


def fewer_levels(arms: Sequence[Arm]) -> list[Arm]:
    """Return the first `SMOKE_LEVELS` arms of each optimizer and variant, for a smoke run."""
    groups: dict[tuple[str, bool], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.optimizer, arm.as_released), []).append(arm)
    return [arm for group in groups.values() for arm in group[:SMOKE_LEVELS]]
