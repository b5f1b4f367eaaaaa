"""A search: spaces of hyperparameters, a budget that every optimizer has alike, a sampler.

Configurations are scored on a held-out tenth of the training set, under a seed that nothing else uses. The best of each
optimizer is then trained on the whole training set under fresh seeds: those trials alone are results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import click

from studies.harness.kinds.artefact import Artefact

TRAIN_FRACTION = 0.9
METRIC, SCORE = "test/accuracy", "val/accuracy"
Parameters = Mapping[str, Any]  # of one configuration: the tuned hyperparameters


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; integers when both ends are.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: True if the logarithm is drawn.
    """

    low: float
    high: float
    log: bool = False

    @property
    def integer(self) -> bool:
        """True if only integers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> list[Any]:
        """Values that must be legal for all to be."""
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Return True if the domain contains a value."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def problem(self) -> str:
        """Return the error in the ends, or an empty text."""
        if not all(isinstance(end, int | float) and math.isfinite(end) for end in self.ends):
            return "both ends must be finite numbers"
        if not self.low < self.high:
            return "the lower end must be below the upper one"
        return (
            "on a logarithmic scale the lower end must be above 0"
            if self.log and self.low <= 0
            else ""
        )

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
        """Return True if the domain contains a value."""
        return value in self.values

    def problem(self) -> str:
        """Return the error in the values, or an empty text."""
        if len(set(map(repr, self.values))) < max(2, len(self.values)):
            return "needs two values or more, all different"
        plain = all(
            value is None or isinstance(value, bool | int | float | str) for value in self.values
        )
        return "" if plain else "values must be numbers, words, true, false or none"

    def __str__(self) -> str:
        return "{" + ", ".join(map(str, self.values)) + "}"


Space = Mapping[str, Range | Choice]


@dataclass(frozen=True, kw_only=True)
class Search(Artefact):
    """Every optimizer tuned with the same budget.

    Attributes:
        spaces: The hyperparameters that are tuned of each optimizer, with their domains.
        spaces_on: Other spaces of some optimizers, on a workload or on all workloads of a dataset.
        budget: Configurations for each optimizer, the recipe's own values first; failed ones count.
        sampler: One of Optuna's, by name: `tpe`, `random`, `nsgaii`, ...
        asha: True if configurations that fall behind are stopped early.
        seeds: Number of fresh seeds for the winners: 0 ... seeds - 1.
        tuning_seed: The seed of the configurations; none of the fresh ones.
    """

    KIND: ClassVar[str] = "search"
    FLAGS: ClassVar[Sequence[click.Option]] = (
        click.Option(
            ["--budget"],
            metavar="N",
            help="Configurations for each optimizer, instead of the study's.",
        ),
        click.Option(
            ["--sampler"], metavar="NAME", help="One of Optuna's: tpe, random, nsgaii, gp, qmc, ..."
        ),
        click.Option(["--asha"], is_flag=True, help="Stop configurations that fall behind."),
    )
    HELP: ClassVar[Mapping[str, str]] = {
        "smoke": "Two optimizers, two configurations, two fresh seeds, two epochs on digits, in OUT/smoke.",
        "seeds": "Fresh seeds for the winners: 6 is seeds 0 to 5; 3,7 is those two.",
        "settings": "Set a hyperparameter that is not tuned, or a setting of the recipe.",
        "dry_run": "Print the plan and stop; with --json a line for each optimizer.",
    }
    REFUSED: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("only", "levels", "rerun"), "which is a search"
    )

    spaces: Mapping[str, Space]
    spaces_on: Mapping[str, Mapping[str, Space]] = field(default_factory=dict)
    budget: int = 20
    sampler: str = "tpe"
    asha: bool = False
    seeds: int = 5
    tuning_seed: int = 1000

    def spaces_of(self, workload: str) -> dict[str, Space]:
        """Return the spaces on a workload."""
        others = self.spaces_on.get(workload, self.spaces_on.get(workload.rpartition("/")[0], {}))
        return {name: others.get(name, space) for name, space in self.spaces.items()}
