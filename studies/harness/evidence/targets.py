"""Times to a target: the target, and the epochs and seconds that each arm needs to reach it.

Trials train for all epochs, and the time to a target is read from their curves, so that the time to
any target can be computed. The seconds to a target are the epochs to it times the seconds per epoch
of the arm's configuration, which were measured while nothing else ran (`costs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from precond.counts import counted
from studies.harness.design.arms import Trial, first_trials
from studies.harness.design.facts import Facts
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import completed
from studies.harness.evidence.costs import Cost, Costs
from studies.harness.evidence.metrics import (
    EPOCHS_TO_TARGET,
    SECONDS_TO_TARGET,
    higher_is_better,
    metric_name,
    show,
)
from studies.harness.evidence.status import COMPLETED, LOST
from studies.harness.published.papers import cells_of
from studies.harness.statistics.times import TimeToTarget, hits, time_to_target

GRID = 25  # number of targets in the figure of epochs over the target
ENDED = (COMPLETED, *LOST)
Curves = Mapping[str, Mapping[int, list[float]]]
"""The evaluations after each epoch, by arm label and seed."""


@dataclass(frozen=True)
class Target:
    """The value of the metric to reach, and its source in words."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times to the target of a study's arms.

    Attributes:
        evidence: The evidence of the study.
        metric: The metric that has to reach the target.
        reference: The optimizer whose times are the baseline.
        target: The target; None while no trial of the reference has completed.
        costs: The costs of the arms.
    """

    evidence: Evidence
    metric: str
    reference: str
    target: Target | None
    costs: Costs

    @cached_property
    def arms(self) -> Mapping[str, Trial]:
        """One trial of each arm by the arm's label, in the order of the plan."""
        return first_trials(self.evidence.trials)

    @cached_property
    def base(self) -> str:
        """The label of the reference's arm; empty if there is none."""
        return next(
            (label for label, trial in self.arms.items() if trial.arm.optimizer == self.reference),
            "",
        )

    @cached_property
    def curves(self) -> Curves:
        """The metric over epochs, by arm and seed, of the trials that have ended."""
        by_epoch = self.evidence.by_epoch
        return curves(self.evidence.frame, by_epoch, self.metric) if self.metric in by_epoch else {}

    @property
    def value(self) -> float:
        """The value of the target; without a target, an infinity that no run reaches."""
        never = math.inf if self.higher else -math.inf
        return self.target.value if self.target else never

    @property
    def higher(self) -> bool:
        """True if larger values of the metric are better."""
        return higher_is_better(self.metric)

    def time(self, arm: str, target: float | None = None, whole: bool = False) -> TimeToTarget:
        """Return the time, in epochs, that an arm needs to reach a target.

        The default target is that of the study. If `whole` is True, the epochs are not interpolated.
        """
        return time_to_target(
            self.curves.get(arm, {}),
            self.value if target is None else target,
            higher=self.higher,
            whole=whole,
        )

    def whole(self, arm: str) -> dict[int, float]:
        """Return, by seed, the epoch (not interpolated) that reaches the target, or nan."""
        return hits(self.curves.get(arm, {}), self.value, self.higher, whole=True)

    def grid(self) -> list[float]:
        """Return evenly spaced targets.

        The first target is the best value that any run has after its first epoch. The last target
        is the best value of all epochs.
        """
        runs = [run for seeds in self.curves.values() for run in seeds.values() if run]
        if not runs:
            return []
        best = max if self.higher else min
        targets = np.linspace(best(run[0] for run in runs), best(map(best, runs)), GRID)
        return [float(target) for target in targets]


def published_target(facts: Facts, workload: str) -> Target | None:
    """Return the target that the paper states for a workload, or None."""
    cells = (
        c for c in cells_of(facts) if c.protocol["workload"] == workload and "target" in c.protocol
    )
    return next((Target(float(c.protocol["target"]), f"{c.paper}, {c.table}") for c in cells), None)


def target_of_runs(
    frame: pd.DataFrame, metric: str, reference: str, *, share: float, of: str, rule: str
) -> Target | None:
    """Return the target that a paper's rule derives from the reference's completed trials.

    The target is `share` times the metric after the `best` or the `last` epoch, averaged over
    seeds. If smaller values are better, it is this mean divided by `share`. `rule` describes the
    rule in words. Returns None if no trial has completed.
    """
    values = completed(
        frame.query("optimizer == @reference"), metric if of == "last" else f"best/{metric}"
    )
    if values.empty:
        return None
    mean, trials = float(values.mean()), counted(len(values), "trial")
    text = f"{show(metric, mean)}, the mean {metric_name(metric)} of the {of} epoch over {trials}"
    if share == 1:
        return Target(mean, f"{rule}: {text}")
    if higher_is_better(metric):
        return Target(share * mean, f"{rule}: {share:g} x {text}")
    return Target(mean / share, f"{rule}; for {metric_name(metric)}, 1 / {share:g} x {text}")


def curves(frame: pd.DataFrame, by_epoch: pd.DataFrame, metric: str) -> Curves:
    """Return the curves of a metric of all trials that have ended.

    `frame` and `by_epoch` are tables of `ledger.frame`, per trial and per epoch. Trials that have
    not ended are omitted. The curve of a trial that diverged, ran out of memory or failed is empty,
    so that it misses every target, even one that it had reached before.
    """
    runs = {
        str(key): run.astype(float).tolist()
        for key, run in by_epoch.groupby("trial_key", sort=False)[metric]
    }
    by_arm: dict[str, dict[int, list[float]]] = {}
    for row in frame.query("status in @ENDED").to_dict("records"):
        run = runs.get(row["trial_key"], []) if row["status"] == COMPLETED else []
        by_arm.setdefault(row["arm"], {})[row["seed"]] = run
    return by_arm


# ---------------------------------------------------------------------- claims


def claim_values(times: Times) -> dict[str, pd.DataFrame]:
    """Return the tables that claims about times to the target compare, by metric.

    A table has a row for each seed and a column for each arm. A value is the number of epochs, or
    of seconds, in which the trial reaches the target. It is inf if the trial has ended without
    reaching the target, and nan if the trial has not ended or there is no target. The seconds are
    those on the hardware of `claim_costs`, and nan for an arm that was not measured there.
    """
    seeds = sorted({trial.config.seed for trial in times.evidence.trials})
    reached = {
        arm: hits(times.curves.get(arm, {}) if times.target else {}, times.value, times.higher)
        for arm in times.arms
    }
    epochs = pd.DataFrame(
        {arm: pd.Series(by_seed, dtype=float).fillna(math.inf) for arm, by_seed in reached.items()}
    ).reindex(seeds)
    costs = claim_costs(times)
    per_epoch = {arm: cost.epoch.median if cost else math.nan for arm, cost in costs.items()}
    return {
        EPOCHS_TO_TARGET: epochs,
        SECONDS_TO_TARGET: epochs.mul(pd.Series(per_epoch, dtype=float)),
    }


def claim_costs(times: Times) -> Mapping[str, Cost | None]:
    """Return the costs of the arms on the hardware on which most arms were measured.

    If there are several such hardwares, it is the first by name. Without costs, all are None.
    """
    machines = times.costs.machines.values()
    return max(
        machines,
        key=lambda costs: sum(cost is not None for cost in costs.values()),
        default=dict.fromkeys(times.arms),
    )
