"""Arms (the configurations that a study compares) and trials (an arm with one seed)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from precond.hyperparameters import HyperparameterError

if TYPE_CHECKING:
    from trainables.config import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A configuration to compare: an optimizer and the settings that differ from the recipe.

    Attributes:
        optimizer: Name of a registered optimizer.
        overrides: Hyperparameters, and settings of the recipe such as `batch_size`, by name.
            All other values come from the workload's recipe. Lists become tuples.
        factors: The names in `overrides` that the study varies, in the order of the grid.
        as_released: True for the as-released variant, which follows the released code. Only this
            variant is compared with published numbers. False for the corrected variant.
    """

    optimizer: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    factors: tuple[str, ...] = ()
    as_released: bool = False

    def __post_init__(self) -> None:
        overrides = {name: as_level(value) for name, value in self.overrides.items()}
        object.__setattr__(self, "overrides", overrides)

    @property
    def label(self) -> str:
        """The arm's name in tables and run names: `nysact-s rank=10`."""
        kind = ["as-released"] if self.as_released else []
        return " ".join(
            [
                self.optimizer,
                *kind,
                *(f"{name}={spelled(self.overrides[name])}" for name in self.factors),
            ]
        )

    def resolve(self, workload: str, recipe: Mapping[str, Any] | None = None) -> TrialConfig:
        """Return the configuration of the arm's trial with seed 0.

        Args:
            workload: Name of the workload.
            recipe: Settings that replace those of the workload's recipe. The arm's overrides take
                precedence over them.

        Raises:
            HyperparameterError: One line for each error.
        """
        from trainables.workloads import RECIPE_SETTINGS, resolve

        hyperparameters: dict[str, Any] = {}
        fields = dict(recipe or {})
        for name, level in self.overrides.items():
            (fields if name in RECIPE_SETTINGS else hyperparameters)[name] = level
        return resolve(
            workload, self.optimizer, hyperparameters, fields, as_released=self.as_released
        )


def grid(optimizer: str, *, as_released: bool = False, **levels: Sequence[Any]) -> list[Arm]:
    """Return one arm for each combination of levels.

    `grid("nysact-s", rank=[5, 10])` returns two arms.
    """
    combinations = [
        dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())
    ]
    return [
        Arm(optimizer=optimizer, overrides=c, factors=tuple(levels), as_released=as_released)
        for c in combinations
    ]


def as_level(value: Any) -> Any:
    """Return a hyperparameter as the level of an arm: a list, as JSON has it, becomes a tuple."""
    return tuple(value) if isinstance(value, list) else value


def spelled(value: Any) -> Any:
    """Return a tuple as it is spelled on the command line and in tables, such as `0.9/0.95`.

    Any other value is returned unchanged.
    """
    return "/".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def sort_key(value: Any) -> tuple[bool, float, str]:
    """Return a key that sorts numbers by value, and all other values after them as text."""
    number = isinstance(value, int | float)
    return not number, value if number else 0, repr(value)


def levels_of(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Return the levels of each factor, in the order of the arms."""
    by_factor: dict[str, list[Any]] = {}
    for arm in arms:
        for factor in arm.factors:
            known = by_factor.setdefault(factor, [])
            if arm.overrides[factor] not in known:
                known.append(arm.overrides[factor])
    return by_factor


class Trial(NamedTuple):
    """An arm with its resolved configuration for one seed."""

    arm: Arm
    config: TrialConfig

    @property
    def is_centre(self) -> bool:
        """True if every factor has the value of the workload's recipe."""
        if not self.arm.factors:
            return True
        arm = Arm(optimizer=self.arm.optimizer, as_released=self.arm.as_released)
        try:
            recipe = arm.resolve(self.config.workload)
        except HyperparameterError:  # the model allows other levels, but not the recipe's value
            return False
        return all(value(self.config, name) == value(recipe, name) for name in self.arm.factors)


def value(config: TrialConfig, name: str) -> Any:
    """Return the hyperparameter, setting or field `name` of a trial, or None if there is none."""
    for part in (config.hyperparameters, config.settings):
        if name in part:
            return part[name]
    return getattr(config, name, None)


def first_trials(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Return one trial of each arm by the arm's label, in the order of the plan."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.arm.label, trial)
    return first
