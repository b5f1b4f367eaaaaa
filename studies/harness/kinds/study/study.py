"""A study is a literal: arms (what is compared), seeds (how often), and the figure that shows it. Pure, no Ray.

Every kind of study is an `Artefact`, a table or figure of a paper: `Study` compares results on a grid, and
`cost.CostStudy` what a step costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from precond import HyperparameterError
from trainables.config import TrialConfig
from trainables.workloads import RECIPE_SETTINGS, resolve


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing compared: an optimizer and what is set differently from the recipe.

    Attributes:
        optimizer: Registered optimizer.
        overrides: What the arm sets: hyperparameters, and of `RECIPE_SETTINGS` such as `batch_size`; all others come
            from the workload's recipe.
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
        kind = ["faithful"] if self.faithful else []
        return " ".join([self.optimizer, *kind, *(f"{name}={self.overrides[name]}" for name in self.factors)])

    def resolve(self, workload: str, recipe: Mapping[str, Any] | None = None) -> TrialConfig:
        """Its trial under seed 0.

        Args:
            workload: What is trained.
            recipe: What is set instead of the workload's recipe's; what the arm itself sets goes first.

        Raises:
            HyperparameterError: One line for each thing that is wrong with it.
        """
        own: dict[str, Any] = {}
        fields = dict(recipe or {})
        for name, level in self.overrides.items():
            (fields if name in RECIPE_SETTINGS else own)[name] = level
        return resolve(workload, self.optimizer, own, fields, faithful=self.faithful)


def grid(optimizer: str, *, faithful: bool = False, **levels: Sequence[Any]) -> list[Arm]:
    """One arm for each combination of levels: `grid("nysact-s", rank=[5, 10])` is two arms."""
    combinations = [dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())]
    return [Arm(optimizer=optimizer, overrides=c, factors=tuple(levels), faithful=faithful) for c in combinations]


@dataclass(frozen=True, kw_only=True)
class LevelFigure:
    """A metric over a factor's levels, one panel per optimizer, with arms that lack the factor as horizontal bands."""

    factor: str
    panels: tuple[str, ...]
    references: tuple[str, ...] = ()
    metric: str = "test/accuracy"


@dataclass(frozen=True, kw_only=True)
class CurveFigure:
    """Metrics over epochs, a column each: every arm's mean over its seeds with a band; tables judge `metric`."""

    metrics: tuple[str, ...] = ("test/accuracy", "train/loss")
    references: tuple[str, ...] = ()
    metric: str = "test/accuracy"


class Further(Protocol):
    """A figure beside a study's own, of its trials; it is there when its data are."""

    def draw(self, trials: Sequence[Trial], root: Path, folder: Path) -> list[Path]:
        """Draw it into `folder` from the trials' folders below `root`; returns the files."""
        ...


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

    @property
    def is_centre(self) -> bool:
        """Whether every factor is at the value that the workload's recipe gives it."""
        if not self.arm.factors:
            return True
        recipe = Arm(optimizer=self.arm.optimizer, faithful=self.arm.faithful).resolve(self.config.workload)
        return all(value(self.config, name) == value(recipe, name) for name in self.arm.factors)


def value(config: TrialConfig, name: str) -> Any:
    """A hyperparameter, a setting or a field of a trial by its name; None where it has none."""
    for part in (config.hyperparameters, config.settings):
        if name in part:
            return part[name]
    return getattr(config, name, None)


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
        published: The workloads of the paper's own artefact, each with what the paper sets there instead of the
            recipe's values.
        reconstructed: What the paper's text does not state and is set here, a line each.
    """

    name: str
    title: str
    paper: str
    table: str
    claim: str
    falsifier: str
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reconstructed: tuple[str, ...] = ()

    @property
    def citation(self) -> str:
        """Paper and table in one: `NysAct, Figure 7`."""
        return f"{self.paper}, {self.table}"

    @property
    def papers_command(self) -> str:
        """What runs the paper's own: `python studies/ablation_rank.py --workload A,B`; empty without `published`."""
        return f"python studies/{self.name}.py --workload {','.join(self.published)}" if self.published else ""


@dataclass(frozen=True, kw_only=True)
class Study(Artefact):
    """A grid of arms by seeds.

    Attributes:
        arms: What is compared.
        figure: How it is drawn.
        timed: Whether the artefact has seconds per epoch; they come from `compare_cost`'s files.
        workload: Default workload.
        seeds: Number of seeds; the seeds are 0 ... seeds - 1.
        arms_on: Other arms, on a workload or on all workloads of a dataset.
        further: Other figures of the same trials.
    """

    arms: Sequence[Arm]
    figure: LevelFigure | CurveFigure | TargetFigure
    workload: str = "digits/cnn"
    seeds: int = 5
    timed: bool = False
    arms_on: Mapping[str, Sequence[Arm]] = field(default_factory=dict)
    further: Sequence[Further] = ()

    def arms_of(self, workload: str) -> list[Arm]:
        """What is compared on a workload.

        Where the levels of an arm's only factor lack the value that the workload's recipe has, that level is added: it
        is the trial that all ablations share, and what the other levels are held against.
        """
        arms = self.arms_on.get(workload, self.arms_on.get(workload.rpartition("/")[0], self.arms))
        rows: dict[str, list[Arm]] = {}
        for arm in arms:
            rest = {name: level for name, level in arm.overrides.items() if name not in arm.factors}
            rows.setdefault(str((arm.optimizer, arm.faithful, arm.factors, rest)), []).append(arm)
        return [arm for row in rows.values() for arm in _with_centre(row, workload)]

    def trials(
        self,
        workload: str | None = None,
        seeds: Sequence[int] | None = None,
        recipe: Mapping[str, Any] | None = None,
        arms: Sequence[Arm] | None = None,
    ) -> list[Trial]:
        """The trials of this study, seed by seed so that every arm has a first result early.

        Where a workload has no conventions of released code, an optimizer's faithful and consistent arms are the same
        trials: the one that comes first stays.

        Args:
            workload: Instead of the study's own.
            seeds: Instead of the study's own.
            recipe: What is set instead of the workload's recipe's, such as `batch_size` or `mixup`.
            arms: Instead of `arms_of(workload)`.

        Raises:
            HyperparameterError: One line for each thing that is wrong with an arm.
        """
        workload = workload or self.workload
        held = {**self.published.get(workload, {}), **(recipe or {})}
        pairs: dict[str, tuple[Arm, TrialConfig]] = {}
        wrong: dict[str, None] = {}
        for arm in self.arms_of(workload) if arms is None else arms:
            try:
                config = arm.resolve(workload, held)
            except HyperparameterError as error:
                wrong.update(dict.fromkeys(str(error).splitlines()))  # many arms, one mistake, one line
                continue
            twin, _ = pairs.setdefault(config.group_key, (arm, config))
            if twin is not arm and (twin.faithful == arm.faithful or replace(twin, faithful=arm.faithful) != arm):
                wrong[f"{self.name}: arms {twin.label} and {arm.label} are the same trials"] = None
        if wrong:
            raise HyperparameterError("\n".join(wrong))
        seeds = range(self.seeds) if seeds is None else seeds
        return [Trial(arm, config.with_seed(seed)) for seed in seeds for arm, config in pairs.values()]


def _with_centre(row: Sequence[Arm], workload: str) -> list[Arm]:
    """The levels of one factor with the recipe's, in order; arms of no factor or of several as they are."""
    first, levels = row[0], [arm.overrides[arm.factors[0]] for arm in row if len(arm.factors) == 1]
    if not levels:
        return [*row]
    factor = first.factors[0]
    try:
        centre = value(Arm(optimizer=first.optimizer, faithful=first.faithful).resolve(workload), factor)
    except HyperparameterError:  # said where the arms themselves are resolved
        return [*row]
    if centre is None or centre in levels:
        return [*row]
    arms = [*row, replace(first, overrides={**first.overrides, factor: centre})]
    ordered = all(isinstance(level, int | float) for level in [*levels, centre])
    return sorted(arms, key=lambda arm: arm.overrides[factor]) if ordered else arms
