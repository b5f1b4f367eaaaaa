"""A study is a literal: arms (what is compared), seeds (how often), and the figure that shows it. Pure, no Ray.

Every kind of study is an `Artefact`, a table or figure of a paper: `Study` compares results on a grid, and
`cost.CostStudy` what a step costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from precond import HyperparameterError
from trainables.config import TrialConfig
from trainables.workloads import resolve


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing compared: an optimizer and what is set differently from the recipe.

    Attributes:
        optimizer: Registered optimizer.
        overrides: Hyperparameters set by the arm; all others come from the workload's recipe.
        factors: The names in `overrides` that the study varies, in the order of the grid.
        faithful: Whether the arm is the released code's variant, which alone is held against published numbers;
            otherwise it is what the mathematics says (consistent).
    """

    optimizer: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    factors: tuple[str, ...] = ()
    faithful: bool = False

    @property
    def label(self) -> str:
        """The arm's name in tables and run names: `nysact-s rank=10`."""
        kind = [self.optimizer, "faithful"] if self.faithful else [self.optimizer]
        return " ".join([*kind, *(f"{name}={self.overrides[name]}" for name in self.factors)])


def grid(optimizer: str, **levels: Sequence[Any]) -> list[Arm]:
    """One arm for each combination of levels: `grid("nysact-s", rank=[5, 10])` is two arms."""
    return [
        Arm(optimizer=optimizer, overrides=dict(zip(levels, values, strict=True)), factors=tuple(levels))
        for values in itertools.product(*levels.values())
    ]


@dataclass(frozen=True, kw_only=True)
class LevelFigure:
    """A metric over a factor's levels, one panel per optimizer, with arms that lack the factor as horizontal bands."""

    factor: str
    panels: tuple[str, ...]
    references: tuple[str, ...] = ()
    metric: str = "test/accuracy"


@dataclass(frozen=True, kw_only=True)
class TargetFigure:
    """Curves on the way to a target: how long each arm takes to it, in epochs and in seconds.

    A target that the paper states for a workload is taken; on others the paper's rule makes it of the reference's runs.

    Attributes:
        reference: The optimizer that makes the target, and that times are compared with.
        share: The target is this share ...
        of: ... of the reference's accuracy after the `best` epoch of a run, or the `last`; the mean over seeds.
        rule: Where the paper says so, in words.
        panels: What is drawn: (metric, axis), the axis `epochs` or `time`.
        metric: What has to reach the target.
    """

    reference: str
    share: float
    of: Literal["best", "last"]
    rule: str
    panels: tuple[tuple[str, Literal["epochs", "time"]], ...]
    metric: str = "test/accuracy"

    @property
    def references(self) -> tuple[str, ...]:
        """What the other arms are held against."""
        return (self.reference,)


class Trial(NamedTuple):
    """One planned training: an arm under one seed, resolved."""

    arm: Arm
    config: TrialConfig


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What a file of `studies` reproduces, and what would speak against it.

    Attributes:
        name: File name without `.py`; also the MLflow experiment.
        title: One line for reports.
        paper: The paper that this reproduces.
        table: Its table or figure.
        claim: What the paper says, and so what is tested.
        falsifier: The outcome that would contradict the claim.
    """

    name: str
    title: str
    paper: str
    table: str
    claim: str
    falsifier: str

    @property
    def citation(self) -> str:
        """Paper and table in one: `NysAct, Figure 7`."""
        return f"{self.paper}, {self.table}"


@dataclass(frozen=True, kw_only=True)
class Study(Artefact):
    """A grid of arms by seeds.

    Attributes:
        arms: What is compared.
        figure: How it is drawn.
        timed: Whether the artefact has seconds per epoch; they come from `compare_cost`'s files.
        workload: Default workload.
        seeds: Number of seeds; the seeds are 0 ... seeds - 1.
    """

    arms: Sequence[Arm]
    figure: LevelFigure | TargetFigure
    workload: str = "digits/cnn"
    seeds: int = 5
    timed: bool = False

    def trials(
        self,
        workload: str | None = None,
        seeds: Sequence[int] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> list[Trial]:
        """The trials of this study, seed by seed so that every arm has a first result early.

        Args:
            workload: Instead of the study's own.
            seeds: Instead of the study's own.
            recipe: What is set instead of the workload's recipe's, such as `batch_size` or `mixup`.

        Raises:
            HyperparameterError: One line for each thing that is wrong with an arm.
        """
        pairs, wrong = [], {}
        for arm in self.arms:
            try:
                config = resolve(workload or self.workload, arm.optimizer, arm.overrides, recipe, faithful=arm.faithful)
                pairs.append((arm, config))
            except HyperparameterError as error:
                wrong.update(dict.fromkeys(str(error).splitlines()))  # many arms, one mistake, one line
        names: dict[str, str] = {}
        for arm, config in pairs:
            twin = names.setdefault(config.group_key, arm.label)
            if twin != arm.label:
                wrong[f"{self.name}: arms {twin} and {arm.label} are the same trials"] = None
        if wrong:
            raise HyperparameterError("\n".join(wrong))
        seeds = range(self.seeds) if seeds is None else seeds
        return [Trial(arm, config.with_seed(seed)) for seed in seeds for arm, config in pairs]
