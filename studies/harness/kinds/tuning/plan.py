"""The trials of the tuning of a recipe, and the missing trials among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from precond.counts import counted
from precond.hyperparameters import HyperparameterError, nearest
from studies.harness.design.arms import Arm, Trial
from studies.harness.design.options import Options
from studies.harness.evidence import coverage, status
from studies.harness.evidence.metrics import on_workload
from studies.harness.kinds.artefact import Plan, Work
from studies.harness.kinds.planning import plan_workloads, recipe
from studies.harness.kinds.selection import with_selection
from studies.harness.kinds.tuning.tuning import RecipeTuning
from trainables.recipes.tuning import SPACES, TRAIN_FRACTION, configurations, ledger_file


@dataclass(frozen=True, kw_only=True)
class TuningPlan(Plan):
    """The trials of all configurations and seeds on one workload.

    Attributes:
        metric: The metric of the scores, such as `val/accuracy`.
        optimizers: The optimizers to tune.
    """

    artefact: RecipeTuning
    metric: str
    optimizers: Sequence[str]

    @property
    def folder(self) -> Path:
        """The folder of the ledger."""
        name = ledger_file(self.workload).stem
        name = f"{name}+{self.selection}" if self.selection else name
        return self.root / self.artefact.name / name


def plans(tuning: RecipeTuning, options: Options) -> list[TuningPlan]:
    """Return the plans of a tuning (see `Artefact.plan`)."""
    return plan_workloads(tuning, options, partial(_selected, tuning, options))


def _selected(tuning: RecipeTuning, options: Options, workload: str) -> TuningPlan:
    plan_of = partial(_plan, tuning, workload)
    return with_selection(plan_of(options), plan_of, _groups)


def _groups(plan: TuningPlan) -> set[str]:
    return {trial.config.group_key for trial in plan.trials}


def _plan(tuning: RecipeTuning, name: str, options: Options) -> TuningPlan:
    optimizers = list(dict.fromkeys(options.optimizers or SPACES))
    no_space = f"{tuning.name} has no search space for it"
    errors = {
        f'--optimizers = "{optimizer}": {no_space}.{nearest(optimizer, SPACES)}': None
        for optimizer in optimizers
        if optimizer not in SPACES
    }
    trials: list[Trial] = []
    fields = {**recipe(options), "train_fraction": TRAIN_FRACTION}
    for arm in _arms(tuning, [name for name in optimizers if name in SPACES]):
        try:
            config = arm.resolve(name, fields)
        except HyperparameterError as error:
            errors.update(dict.fromkeys(str(error).splitlines()))
            continue
        trials += [Trial(arm, config.with_seed(seed)) for seed in tuning.seeds]
    if errors:
        raise HyperparameterError("\n".join(errors))
    metric = on_workload("val/headline", name)
    values: dict[str, Any] = {"workload": name, "options": options, "trials": trials}
    return TuningPlan(artefact=tuning, metric=metric, optimizers=optimizers, **values)


def _arms(tuning: RecipeTuning, optimizers: Sequence[str]) -> list[Arm]:
    return [
        Arm(optimizer=optimizer, overrides=values, factors=tuple(values))
        for optimizer in optimizers
        for values in configurations(optimizer, tuning.budget)
    ]


def missing(plan: TuningPlan) -> Work:
    """Return the trials without a result; none with `--report-only`."""
    todo = status.missing(plan.trials, plan.root, plan.options.retry)
    work = [] if plan.options.report_only else todo
    examples = [*{trial.arm.optimizer: trial for trial in plan.trials}.values()]
    grid = " x ".join(
        (
            counted(len(plan.optimizers), "optimizer"),
            counted(plan.artefact.budget, "configuration"),
            counted(len(plan.artefact.seeds), "seed"),
        )
    )
    total = len(plan.trials)
    summary = f"{counted(total, 'trial')} ({grid}): {total - len(todo)} done, {len(todo)} to go"
    records = [{"key": t.config.trial_key, "config": t.config.to_dict()} for t in work]
    return Work(
        count=len(work),
        summary="\n".join([summary, *coverage.warnings(examples)]),
        details=coverage.lines(examples),
        records=records,
        trials=work,
        on_ray=True,
    )
