"""Time to a target, for a study's report: which target, when each arm hits it, what that takes in seconds.

Trials train to the cap and hits are read off their curves, so any other target can be read off, too. Seconds are
epochs to the target x seconds per epoch of the exact configuration, measured alone (`exclusive.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from studies.harness.evidence import costs as exclusive
from studies.harness.evidence.costs import Cost
from studies.harness.evidence.statistics import completed
from studies.harness.evidence.targets import Curves, TimeToTarget, curves, hits, time_to_target
from studies.harness.kinds.study.study import Study, TargetFigure, Trial
from studies.harness.published.papers import about, paper

GRID = 25  # targets on the curve of epochs over the target


@dataclass(frozen=True)
class Target:
    """What has to be reached.

    Attributes:
        value: In the metric's unit.
        why: Where it comes from.
    """

    value: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A study's times to its target.

    Attributes:
        study: Its figure is a `TargetFigure`.
        arms: One trial of each arm, by its label, in the order of the plan.
        reference: Label of the arm that times are compared with.
        frame: `ledger.frame(..., per="trial")`.
        by_epoch: `ledger.frame(..., per="epoch")`.
        curves: The metric, by arm and seed, of every trial that has ended.
        target: None while no trial of the reference has completed.
        costs: By hardware, each arm's cost, or None where it was not measured there.
        unmeasured: The arms whose cost is known on no hardware.
    """

    study: Study
    arms: dict[str, Trial]
    reference: str
    frame: pd.DataFrame
    by_epoch: pd.DataFrame
    curves: Curves
    target: Target | None
    costs: dict[str, dict[str, Cost | None]]
    unmeasured: tuple[Trial, ...]

    @property
    def figure(self) -> TargetFigure:
        """How it is drawn, and the rule of the target."""
        assert isinstance(self.study.figure, TargetFigure)
        return self.study.figure

    def time(self, arm: str, target: float | None = None, whole: bool = False) -> TimeToTarget:
        """An arm's time in epochs to the target, or to another one; `whole` ones are what papers count."""
        return time_to_target(self.curves.get(arm, {}), self._value if target is None else target, whole)

    def whole(self, arm: str) -> dict[int, float]:
        """The whole epoch of each seed's hit; nan where there is none."""
        return hits(self.curves.get(arm, {}), self._value, whole=True)

    @property
    def _value(self) -> float:
        return self.target.value if self.target else math.inf

    def grid(self) -> list[float]:
        """Targets from what every arm's first epoch reaches to the best of all."""
        runs = [run for seeds in self.curves.values() for run in seeds.values() if run]
        if not runs:
            return []
        return [float(x) for x in np.linspace(max(run[0] for run in runs), max(map(max, runs)), GRID)]


def read(
    study: Study, trials: Sequence[Trial], frame: pd.DataFrame, by_epoch: pd.DataFrame, root: Path
) -> Reached | None:
    """A study's times to its target; None where it has none, its figure being another.

    Args:
        study: The study.
        trials: Its planned trials.
        frame: `ledger.frame(trials, ..., per="trial")`.
        by_epoch: The same with `per="epoch"`.
        root: The output folder, which has the costs, too.
    """
    if not isinstance(study.figure, TargetFigure):
        return None
    arms = exclusive.first_trials(trials)
    labels = [label for label, trial in arms.items() if trial.arm.optimizer == study.figure.reference]
    machines = {}
    for folder in exclusive.folders(root):
        costs = {label: exclusive.find(trial.config, folder) for label, trial in arms.items()}
        if names := [cost.hardware for cost in costs.values() if cost]:
            machines[names[0]] = costs
    known = {label for costs in machines.values() for label, cost in costs.items() if cost}
    has_metric = study.figure.metric in by_epoch
    return Reached(
        study=study,
        arms=arms,
        reference=labels[0] if labels else "",
        frame=frame,
        by_epoch=by_epoch,
        curves=curves(frame, by_epoch, study.figure.metric) if has_metric else {},
        target=_target(study, trials[0].config.workload, frame),
        costs=machines,
        unmeasured=tuple(trial for label, trial in arms.items() if label not in known),
    )


def _target(study: Study, workload: str, frame: pd.DataFrame) -> Target | None:
    """The paper's own target for a workload, or what its rule makes of the reference's completed trials."""
    spec, source = study.figure, paper(study.paper)
    assert isinstance(spec, TargetFigure)
    for claim in about(source.claims, study.table) if source else []:
        if claim.protocol["workload"] == workload and "target" in claim.protocol:
            return Target(float(claim.protocol["target"]), f"{claim.paper}, {claim.table}")
    column = spec.metric if spec.of == "last" else f"best/{spec.metric}"
    values = completed(frame.query("optimizer == @spec.reference"), column)
    if values.empty:
        return None
    mean, epoch = float(values.mean()), f"{spec.of} epoch's accuracy, mean over {len(values)} runs"
    return Target(spec.share * mean, f"{spec.rule}: {spec.share:g} x {100 * mean:.2f}%, the {epoch}")
