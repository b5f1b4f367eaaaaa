"""A search is a literal: spaces of hyperparameters, a budget that every optimizer has alike, a sampler. No Ray.

Configurations are scored on a held-out tenth of the training set, under a seed that nothing else uses. The best of each
optimizer is then trained on the whole training set under fresh seeds: those trials alone are results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import precond
from precond import HyperparameterError
from precond.hyperparameters import nearest
from studies.harness.kinds.study.study import Arm, Artefact, CurveFigure, Study, Trial
from trainables.workloads import RECIPE_SETTINGS

TRAIN_FRACTION = 0.9
METRIC, SCORE = "test/accuracy", "val/accuracy"
Parameters = Mapping[str, Any]  # of one configuration: the tuned hyperparameters


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; integers when both ends are.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether the logarithm is drawn.
    """

    low: float
    high: float
    log: bool = False

    @property
    def integer(self) -> bool:
        """Whether only integers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> list[Any]:
        """Values that must be legal for all to be."""
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def problem(self) -> str:
        """What is wrong with the ends, or nothing."""
        if not all(isinstance(end, int | float) and math.isfinite(end) for end in self.ends):
            return "both ends must be finite numbers"
        if not self.low < self.high:
            return "the lower end must be below the upper one"
        return "on a logarithmic scale the lower end must be above 0" if self.log and self.low <= 0 else ""

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}{' log' if self.log else ''}"


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values, without an order: `Choice("fixed", "window")`."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", values)

    @property
    def ends(self) -> list[Any]:
        """Values that must be legal for all to be."""
        return [*self.values]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.values

    def problem(self) -> str:
        """What is wrong with the values, or nothing."""
        if len(set(map(repr, self.values))) < max(2, len(self.values)):
            return "needs two values or more, all different"
        plain = all(value is None or isinstance(value, bool | int | float | str) for value in self.values)
        return "" if plain else "values must be numbers, words, true, false or none"

    def __str__(self) -> str:
        return "{" + ", ".join(map(str, self.values)) + "}"


Space = Mapping[str, Range | Choice]


@dataclass(frozen=True, kw_only=True)
class Search(Artefact):
    """Every optimizer tuned with the same budget.

    Attributes:
        spaces: What is tuned of each optimizer, and where.
        spaces_on: Other spaces of some optimizers, on a workload or on all workloads of a dataset.
        workload: Default workload.
        budget: Configurations for each optimizer, the recipe's own values first; failed ones count.
        sampler: One of Optuna's, by name: `tpe`, `random`, `nsgaii`, ...
        asha: Whether configurations that fall behind are stopped early.
        seeds: Fresh seeds for the winners: 0 ... seeds - 1.
        tuning_seed: The seed of the configurations; none of the fresh ones.
    """

    spaces: Mapping[str, Space]
    spaces_on: Mapping[str, Mapping[str, Space]] = field(default_factory=dict)
    workload: str = "digits/cnn"
    budget: int = 20
    sampler: str = "tpe"
    asha: bool = False
    seeds: int = 5
    tuning_seed: int = 1000

    def spaces_of(self, workload: str) -> dict[str, Space]:
        """What is tuned on a workload."""
        own = self.spaces_on.get(workload, self.spaces_on.get(workload.rpartition("/")[0], {}))
        return {name: own.get(name, space) for name, space in self.spaces.items()}

    @property
    def as_study(self) -> Study:
        """What reports and MLflow say of any comparison, about the winners."""
        facts = {name: getattr(self, name) for name in Artefact.__dataclass_fields__}
        return Study(**facts, arms=(), figure=CurveFigure(metrics=(METRIC,)), workload=self.workload, seeds=self.seeds)


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search on one workload, as the command line has set it.

    Attributes:
        search: With the sampler and the budget that the command names.
        workload: What is trained.
        spaces: Of the optimizers that are tuned.
        seeds: Fresh seeds.
        recipe: What is set instead of the recipe's values, such as `batch_size`.
        settings: Hyperparameters that are set for every optimizer that has them.
    """

    search: Search
    workload: str
    spaces: Mapping[str, Space]
    seeds: Sequence[int]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def tuning(self, optimizer: str, parameters: Parameters | None = None) -> Trial:
        """The trial that scores a configuration; the recipe's own when None.

        Raises:
            HyperparameterError: One line for each thing that is wrong with it.
        """
        arm = self._arm(optimizer, parameters or {})
        config = arm.resolve(self.workload, {**self.recipe, "train_fraction": TRAIN_FRACTION})
        return Trial(arm, config.with_seed(self.search.tuning_seed))

    def fresh(self, optimizer: str, parameters: Parameters | None = None) -> list[Trial]:
        """A configuration's trials on the whole training set: ordinary ones, which other studies share."""
        arm = self._arm(optimizer, parameters or {})
        config = arm.resolve(self.workload, self.recipe)
        return [Trial(arm, config.with_seed(seed)) for seed in self.seeds]

    def start(self, optimizer: str) -> dict[str, Any]:
        """The recipe's values of what is tuned: the first configuration."""
        hyperparameters = self.tuning(optimizer).config.hyperparameters
        return {name: hyperparameters[name] for name in self.spaces[optimizer]}

    def problems(self) -> list[str]:
        """One line for each thing that is wrong with the spaces, or with what they hold."""
        return [line for optimizer in self.spaces for line in self._problems(optimizer)]

    def _problems(self, optimizer: str) -> list[str]:
        known, wrong = precond.defaults(optimizer), []
        for name, domain in self.spaces[optimizer].items():
            if name not in known or name == "seed":
                wrong.append(f"space of {optimizer}: {name}: unknown hyperparameter.{nearest(name, known)}")
            elif problem := domain.problem():
                wrong.append(f"space of {optimizer}: {name} = {domain}: {problem}")
        if wrong:
            return wrong
        try:
            start = self.start(optimizer)
        except HyperparameterError as error:
            return str(error).splitlines()
        for name, domain in self.spaces[optimizer].items():
            for end in domain.ends:
                wrong += self._illegal(optimizer, {**start, name: end})
            if not domain.holds(start[name]):
                where = f"space of {optimizer} on {self.workload}: {name} = {domain}"
                wrong.append(f"{where}: the recipe's {start[name]} is outside, and the search starts there: widen it")
        return list(dict.fromkeys(wrong))

    def _illegal(self, optimizer: str, parameters: Parameters) -> list[str]:
        try:
            self.tuning(optimizer, parameters)
        except HyperparameterError as error:
            return [f"space of {optimizer}: {line}" for line in str(error).splitlines()]
        return []

    def _arm(self, optimizer: str, parameters: Parameters) -> Arm:
        known = precond.defaults(optimizer)
        held = {k: v for k, v in self.settings.items() if k in known and k not in RECIPE_SETTINGS}
        return Arm(optimizer=optimizer, overrides={**held, **parameters}, factors=tuple(parameters))
