"""Times to a target: which target, when each arm hits it, what that takes in seconds, and as measured results.

Trials train to the cap and hits are read off their curves, so any other target can be read off, too. Seconds are
epochs to the target x seconds per epoch of the exact configuration, measured alone (`costs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from studies.harness.design.arms import Trial, first_trials
from studies.harness.design.facts import Facts
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import completed
from studies.harness.evidence.costs import Costs
from studies.harness.evidence.status import COMPLETED, LOST
from studies.harness.published.papers import claims_of
from studies.harness.published.verdicts import Measured, flat
from studies.harness.statistics.times import TimeToTarget, hits, time_to_target
from trainables.cost.intervals import Median

GRID = 25  # targets on the curve of epochs over the target
ENDED = (COMPLETED, *LOST)
Curves = Mapping[str, Mapping[int, list[float]]]
"""An arm's label -> a seed -> one evaluation after each epoch."""


@dataclass(frozen=True)
class Target:
    """The value to reach, in the metric's unit, and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Times:
    """A study's times to its target.

    Attributes:
        evidence: The study's.
        metric: What has to reach the target.
        reference: The optimizer that times are compared with.
        target: None while no trial of the reference has completed.
        costs: Of the arms.
    """

    evidence: Evidence
    metric: str
    reference: str
    target: Target | None
    costs: Costs

    @cached_property
    def arms(self) -> Mapping[str, Trial]:
        """One trial of each arm, by its label, in the order of the plan."""
        return first_trials(self.evidence.trials)

    @cached_property
    def base(self) -> str:
        """The label of the reference's arm; empty without one."""
        return next(
            (label for label, trial in self.arms.items() if trial.arm.optimizer == self.reference),
            "",
        )

    @cached_property
    def curves(self) -> Curves:
        """The metric, by arm and seed, of every trial that has ended."""
        by_epoch = self.evidence.by_epoch
        return curves(self.evidence.frame, by_epoch, self.metric) if self.metric in by_epoch else {}

    @property
    def value(self) -> float:
        """The target; infinite while there is none."""
        return self.target.value if self.target else math.inf

    def time(self, arm: str, target: float | None = None, whole: bool = False) -> TimeToTarget:
        """Return an arm's time in epochs to the target, or to another one; papers count `whole` epochs."""
        return time_to_target(
            self.curves.get(arm, {}), self.value if target is None else target, whole
        )

    def whole(self, arm: str) -> dict[int, float]:
        """Return the whole epoch of each seed's hit; nan if there is none."""
        return hits(self.curves.get(arm, {}), self.value, whole=True)

    def grid(self) -> list[float]:
        """Return targets from what every arm's first epoch reaches to the best of all."""
        runs = [run for seeds in self.curves.values() for run in seeds.values() if run]
        if not runs:
            return []
        return [
            float(x) for x in np.linspace(max(run[0] for run in runs), max(map(max, runs)), GRID)
        ]


def published_target(facts: Facts, workload: str) -> Target | None:
    """Return the target that the paper states for a workload."""
    claims = (
        c for c in claims_of(facts) if c.protocol["workload"] == workload and "target" in c.protocol
    )
    return next(
        (Target(float(c.protocol["target"]), f"{c.paper}, {c.table}") for c in claims), None
    )


def target_of_runs(
    frame: pd.DataFrame, metric: str, reference: str, *, share: float, of: str, rule: str
) -> Target | None:
    """Return the target that a paper's rule derives from the reference's completed trials; None without any.

    It is a `share` of the accuracy after the `best` or the `last` epoch, averaged over seeds; `rule` says so in words.
    """
    values = completed(
        frame.query("optimizer == @reference"), metric if of == "last" else f"best/{metric}"
    )
    if values.empty:
        return None
    mean, epoch = float(values.mean()), f"{of} epoch's accuracy, mean over {len(values)} runs"
    return Target(share * mean, f"{rule}: {share:g} x {100 * mean:.2f}%, the {epoch}")


def curves(frame: pd.DataFrame, by_epoch: pd.DataFrame, metric: str) -> Curves:
    """Return the curves of a metric of all trials that have ended; empty if one ended before its first epoch did.

    The tables are `ledger.frame` by trial and by epoch. Trials that are still to run, or running, are left out.
    """
    runs = {
        str(key): run.astype(float).tolist()
        for key, run in by_epoch.groupby("trial_key", sort=False)[metric]
    }
    by_arm: dict[str, dict[int, list[float]]] = {}
    for row in frame.query("status in @ENDED").to_dict("records"):
        by_arm.setdefault(row["arm"], {})[row["seed"]] = runs.get(row["trial_key"], [])
    return by_arm


# ---------------------------------------------------------------------- as results to compare with published ones


def measured(times: Times) -> list[Measured]:
    """Return every arm's time to the target in epochs and, on each hardware, in seconds; absolute, and as a reduction.

    A run's seconds are its epochs x the median seconds per epoch: the step's own interval is not in them.
    """
    if times.target is None:
        return []
    results = []
    for label in times.arms:
        results += _results(times, label, "epochs", {})
        for machine, costs in times.costs.machines.items():
            cost, base = costs[label], costs.get(times.base)
            if cost and base:
                seconds = cost.epoch.median, base.epoch.median
                results += _results(times, label, "time", {"hardware": machine}, seconds)
    return results


def _results(
    times: Times,
    label: str,
    kind: str,
    protocol: Mapping[str, str],
    per_epoch: tuple[float, float] = (1.0, 1.0),
) -> list[Measured]:
    """Return `target/<kind>` of an arm and, of all but the reference, `target/<kind>_reduction`.

    `protocol` is what the protocol has beside the trials' settings, and `per_epoch` what an epoch of the arm and one of
    the reference count for.
    """
    factor, base = per_epoch
    time, others = times.time(label, whole=True), times.whole(times.base)
    # If all runs hit, the mean over seeds is judged.
    median = (
        None
        if time.hits == time.n
        else Median(factor * time.median, factor * time.ci_lo, factor * time.ci_hi)
    )
    spent = {seed: factor * epochs for seed, epochs in times.whole(label).items()}
    results = [replace(_result(times, label, f"target/{kind}", spent, protocol), median=median)]
    if label != times.base:
        saved = {
            seed: 1 - value / (base * others.get(seed, math.nan)) for seed, value in spent.items()
        }
        results.append(_result(times, label, f"target/{kind}_reduction", saved, protocol))
    return results


def _result(
    times: Times, label: str, metric: str, values: Mapping[int, float], protocol: Mapping[str, str]
) -> Measured:
    """Return an arm's values by seed; seeds without one (nan) are counted."""
    arm, config = times.arms[label]
    statuses = times.evidence.frame.query("arm == @label").set_index("seed")["status"].to_dict()
    without = [statuses[seed] for seed, value in values.items() if math.isnan(value)]
    return Measured(
        label=label,
        optimizer=arm.optimizer,
        settings={
            **flat(config.to_dict()),
            "target": times.value,
            "reference": times.reference,
            **protocol,
        },
        metric=metric,
        values={seed: value for seed, value in values.items() if not math.isnan(value)},
        failures=sum(status != COMPLETED for status in without),
        missed=without.count(COMPLETED),
    )
