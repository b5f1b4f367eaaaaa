"""The class of a search, and the domains of hyperparameters.

The score of a configuration is the headline metric of the workload, such as the accuracy, on a
held-out tenth of the training set. All trials that score configurations use the same seed. The best
configuration of each optimizer, its winner, is then trained on the whole training set with other
seeds, the fresh seeds. Only these fresh trials are results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import click

from studies.harness.design.arms import as_level, spelled
from studies.harness.kinds.artefact import Artefact, Plan

if TYPE_CHECKING:
    import pandas as pd

    from studies.harness.evidence.analysis import Evidence

TRAIN_FRACTION = 0.9
Parameters = Mapping[str, Any]  # the tuned hyperparameters of a configuration


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included. If both are integers, only the integers.

    Attributes:
        low: The smallest value.
        high: The largest value.
        log: True to sample on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    @property
    def integer(self) -> bool:
        """True if the range contains only integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> list[Any]:
        """The values to validate: if both ends are valid, all values of the range are valid."""
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Return True if the range contains a value."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def problem(self) -> str:
        """Return the error in the ends of the range, or an empty text if they are valid."""
        if not all(isinstance(end, int | float) and math.isfinite(end) for end in self.ends):
            return "both ends must be finite numbers"
        if not self.low < self.high:
            return "the lower end must be below the upper end"
        if self.log and self.low <= 0:
            return "on a logarithmic scale, the lower end must be above 0"
        return ""

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}{' log' if self.log else ''}"


@dataclass(frozen=True, init=False)
class Choice:
    """A set of values without an order: `Choice("fixed", "window")`. A value can be a tuple."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", tuple(map(as_level, values)))

    @property
    def ends(self) -> list[Any]:
        """The values to validate, which are all values."""
        return [*self.values]

    def holds(self, value: Any) -> bool:
        """Return True if the set contains a value."""
        return as_level(value) in self.values

    def problem(self) -> str:
        """Return the error in the values, or an empty text if they are valid."""
        if len(set(map(repr, self.values))) < max(2, len(self.values)):
            return "must have at least two values, all different"
        parts = [part for v in self.values for part in (v if isinstance(v, tuple) else (v,))]
        if not all(isinstance(part, bool | int | float | str | None) for part in parts):
            return "values must be numbers, words, true, false, none or tuples of these"
        return ""

    def __str__(self) -> str:
        return "{" + ", ".join(str(spelled(value)) for value in self.values) + "}"


Space = Mapping[str, Range | Choice]


@dataclass(frozen=True, kw_only=True)
class Search(Artefact):
    """The tuning of several optimizers with the same budget.

    Attributes:
        spaces: For each optimizer, the hyperparameters to tune and their domains.
        spaces_on: The spaces that replace those of some optimizers, by workload or by dataset.
        budget: The number of configurations for each optimizer, including those that fail. The
            recipe's values are the first configuration.
        sampler: The name of a sampler of Optuna: `tpe`, `random`, `nsgaii`, ...
        asha: True if ASHA stops configurations with poor scores early.
        seeds: The number of fresh seeds for the winners. The seeds are 0 ... seeds - 1.
        tuning_seed: The seed of the trials that score configurations; must not be a fresh seed.
    """

    KIND: ClassVar[str] = "search"
    FLAGS: ClassVar[Sequence[click.Option]] = (
        click.Option(
            ["--budget"],
            metavar="N",
            help="Configurations for each optimizer, instead of the study's.",
        ),
        click.Option(
            ["--sampler"],
            metavar="NAME",
            help="Sampler of Optuna: tpe, random, nsgaii, gp, qmc, ...",
        ),
        click.Option(
            ["--asha"], is_flag=True, help="Stop configurations with poor scores early, with ASHA."
        ),
    )
    HELP: ClassVar[Mapping[str, str]] = {
        "smoke": "Two optimizers, two configurations, two fresh seeds and two epochs on digits, in "
        "OUT/smoke.",
        "seeds": "Fresh seeds for the winners: 6 means seeds 0 to 5; 3,7 means seeds 3 and 7.",
        "settings": "Set a hyperparameter that is not tuned, or a setting of the recipe.",
        "dry_run": "Print the plan and exit; with --json, print a line of JSON for each optimizer.",
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

    def reported(self, plan: Any) -> Any:
        """Return the plan with all fresh seeds with which the winners were trained."""
        return self.module("plan").reported(plan)

    def results(self, plan: Any) -> list[str]:
        """Return the trials that have ended."""
        return self.module("plan").results(plan)

    def evidence(self, plan: Plan) -> Evidence | None:
        """Return the analysis of the fresh trials, or None if there is no winner yet."""
        return self.module("report").evidence(plan)

    def frame(self, plan: Plan, per: Literal["trial", "epoch"]) -> pd.DataFrame:
        """Return the trials with known configurations, including the fresh ones of winners."""
        from studies.harness.evidence import ledger

        trials = self.module("plan").known(plan)
        return ledger.frame(trials, plan.root, per, configuration=True)

    def spaces_of(self, workload: str) -> dict[str, Space]:
        """Return the spaces on a workload."""
        dataset = workload.rpartition("/")[0]
        replaced = self.spaces_on.get(workload, self.spaces_on.get(dataset, {}))
        return {name: replaced.get(name, space) for name, space in self.spaces.items()}
