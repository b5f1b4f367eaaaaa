"""The analysis of a study's trials: all results that its report prints, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.design.claims import Claim
from studies.harness.design.facts import Facts
from studies.harness.evidence import arms as by_arm
from studies.harness.evidence import contrasts, ledger
from studies.harness.evidence.claims import Decision, decide_from
from studies.harness.evidence.contrasts import Detectable, Differences
from studies.harness.evidence.gains import Table
from studies.harness.evidence.levels import LevelVerdict, level_verdicts
from studies.harness.evidence.metrics import claim_metric, step
from studies.harness.evidence.status import COMPLETED, LOST
from studies.harness.published.results import Published, against
from studies.harness.published.verdicts import Measured


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The results of the trials of a plan.

    Attributes:
        metric: The metric that is analysed.
        step: The grid of the metric (`metrics.step`).
        trials: The planned trials.
        frame: The table `ledger.frame(..., per="trial")`.
        by_epoch: The table `ledger.frame(..., per="epoch")`.
        factors: Names of the hyperparameters that the arms vary.
        arms: The table `arms.group` with a column `bold`: True if the arm is significantly better
            than at least one arm and significantly worse than none.
        by_seed: The table `arms.by_seed`.
        skewed: The arms with an outlier (`arms.skewed`).
        pairs: The table `contrasts.contrasts`.
        references: The difference of each arm from its reference.
        centres: The difference of each level from the recipe's value.
        levels: A verdict on each optimizer's levels of each factor.
        claims: The decision on each claim of the study.
        power: The smallest difference that the seeds can detect; None if no two arms without
            failures have two common seeds.
        published: The comparison with the paper; None if the paper has no numbers.
    """

    metric: str
    step: float
    trials: Sequence[Trial]
    frame: pd.DataFrame
    by_epoch: pd.DataFrame
    factors: Sequence[str]
    arms: pd.DataFrame
    by_seed: pd.DataFrame
    skewed: Sequence[str]
    pairs: pd.DataFrame
    references: Differences
    centres: Differences
    levels: Sequence[LevelVerdict]
    power: Detectable | None
    claims: Sequence[Decision] = ()
    published: Published | None = None

    @property
    def completed_epochs(self) -> pd.DataFrame:
        """The rows of `by_epoch` that belong to completed trials."""
        return self.by_epoch.loc[self.by_epoch["status"] == COMPLETED]

    @property
    def lost(self) -> dict[str, int]:
        """The number of trials that ended without a result, by status."""
        statuses = list(self.frame["status"])
        return {status: statuses.count(status) for status in LOST if status in statuses}

    def of(self, metric: str) -> Evidence:
        """Return the evidence of the same trials for another metric."""
        return (
            self
            if metric == self.metric
            else analyse_tables(self.trials, self.frame, self.by_epoch, metric)
        )

    def compared(self, facts: Facts, results: Sequence[Measured]) -> Evidence:
        """Return this evidence with `published`.

        It is the comparison of the arms, and of the additional `results`, with the paper.
        """
        groups = [*by_arm.measured(self.trials, self.frame, self.metric), *results]
        workloads = {trial.config.workload for trial in self.trials}
        return replace(self, published=against(facts, groups, workloads))


def analyse(
    trials: Sequence[Trial],
    root: Path,
    metric: str,
    references: Sequence[str] = (),
    claims: Sequence[Claim] = (),
) -> Evidence:
    """Read the folders of a plan's trials and return their analysis.

    Args:
        trials: The trials.
        root: The output folder.
        metric: The metric of the tables.
        references: Names of optimizers. The arms are compared with those of the first optimizer in
            `references` that is in the plan.
        claims: The claims to decide.
    """
    return analyse_tables(
        trials,
        ledger.frame(trials, root),
        ledger.frame(trials, root, per="epoch"),
        metric,
        references,
        claims,
    )


def analyse_tables(
    trials: Sequence[Trial],
    frame: pd.DataFrame,
    by_epoch: pd.DataFrame,
    metric: str,
    references: Sequence[str] = (),
    claims: Sequence[Claim] = (),
) -> Evidence:
    """Return the analysis of tables of trials; `Evidence` describes the tables."""
    values = by_arm.by_seed(frame, metric)
    grid = step(metric, trials[0].config.workload)
    pairs, centres = contrasts.contrasts(values, metric, grid), contrasts.centre_of(trials)
    table = by_arm.group(frame, metric, grid)
    return Evidence(
        metric=metric,
        step=grid,
        trials=trials,
        frame=frame,
        by_epoch=by_epoch,
        factors=ledger.factors(frame),
        arms=table.assign(bold=table["arm"].isin([*contrasts.bold(pairs)])),
        by_seed=values,
        skewed=by_arm.skewed(values, grid),
        pairs=pairs,
        references=contrasts.to_references(pairs, trials, references, centres),
        centres=contrasts.to_centres(pairs, centres),
        levels=level_verdicts(frame, values, metric, grid),
        power=contrasts.detectable(values, grid),
        claims=decide_claims(claims, trials[0].config.workload, frame, metric) if claims else (),
    )


def decide_claims(
    claims: Sequence[Claim],
    workload: str,
    frame: pd.DataFrame,
    metric: str,
    derived: Mapping[str, pd.DataFrame] | None = None,
) -> list[Decision]:
    """Return a decision on each claim.

    Args:
        claims: The claims.
        workload: The workload of the trials.
        frame: The table of the trials.
        metric: The metric of claims without a metric.
        derived: The values of metrics that no trial records (`Extension.values`).
    """
    names = {claim.metric: claim_metric(claim, metric, workload) for claim in claims}
    tables = {
        key: Table(by_arm.by_seed(frame, name), name, step(name, workload))
        for key, name in names.items()
        if name is not None
    }
    tables |= {name: Table(values, name) for name, values in (derived or {}).items()}
    return decide_from(claims, tables, workload)
