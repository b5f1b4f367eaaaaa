"""The trials of a study that a command selects, and the missing trials among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from precond.counts import counted
from precond.hyperparameters import HyperparameterError
from studies.harness.design.arms import Trial, levels_of
from studies.harness.design.options import SMOKE_SEEDS, Options
from studies.harness.evidence import coverage, status
from studies.harness.evidence.status import trained_seeds
from studies.harness.kinds.artefact import Plan, Work
from studies.harness.kinds.planning import plan_workloads, recipe, workloads
from studies.harness.kinds.records import Stored, stored_plans
from studies.harness.kinds.selection import with_selection
from studies.harness.kinds.study.arms import (
    fewer_levels,
    is_selected,
    study_on_workload,
    with_epochs,
    with_levels,
    with_settings,
)
from studies.harness.kinds.study.figures import Figure
from studies.harness.kinds.study.problems import (
    claim_problems,
    figure_problems,
    option_problems,
    unknown_optimizers,
)
from studies.harness.kinds.study.study import Study
from studies.harness.tracking.view import View
from studies.harness.tracking.views import TrialsView
from trainables.store import read_config, trial_folders

if TYPE_CHECKING:
    from studies.harness.evidence.power import Power

MAX_TRIALS = 10_000


@dataclass(frozen=True, kw_only=True)
class StudyPlan(Plan):
    """A study with the trials that a command selects on one workload."""

    artefact: Study

    @property
    def figure(self) -> Figure:
        """The main figure, with the names of its metrics on the workload."""
        return self.artefact.figure.on(self.workload)

    @property
    def extra_figures(self) -> list[Figure]:
        """The additional figures, with the names of their metrics on the workload."""
        return [figure.on(self.workload) for figure in self.artefact.extra_figures]


def plans(study: Study, options: Options) -> list[StudyPlan]:
    """Return the plans of a study (see `Artefact.plan`)."""
    return plan_workloads(study, options, partial(plan, study, options))


def plan(study: Study, options: Options, workload: str | None = None) -> StudyPlan:
    """Return the plan of a study on a workload, by default on the first workload of the command.

    Raises:
        HyperparameterError: One line for each error.
    """
    workload = workload or workloads(study, options)[0]
    return with_selection(
        _plan(study, options, workload), lambda whole: _plan(study, whole, workload), _groups
    )


def _groups(plan: StudyPlan) -> set[str]:
    return {trial.config.group_key for trial in plan.trials}


def _plan(study: Study, options: Options, workload: str) -> StudyPlan:
    figure_errors, claim_errors = figure_problems(study), claim_problems(study)
    study = study_on_workload(study, workload, options)
    if errors := unknown_optimizers(study.arms):
        raise HyperparameterError("\n".join(errors))
    levels = with_epochs(study, options)
    varied = with_levels(study.arms, levels)
    errors = figure_errors + claim_errors + option_problems(study, options, levels_of(varied))
    arms = [with_settings(arm, options.settings) for arm in varied]
    selected = [arm for arm in arms if is_selected(arm, options)]
    if not selected and not errors:
        errors.append(f"--optimizers and --only select no arm of {study.name}")
    if study.any_optimizer:  # the claims are about the selected arms
        study = replace(study, arms=selected or arms)
        study = replace(study, claims=study.claims_on(workload))
    seeds = options.seeds
    if options.smoke:
        selected, seeds = fewer_levels(selected), seeds or SMOKE_SEEDS
    settings = recipe(options)
    if "epochs" in levels:
        settings.pop("epochs", None)
    trials: list[Trial] = []
    try:  # even if there are errors already, to report all errors at once
        trials = study.trials(workload, seeds, settings, arms=selected or arms)
    except HyperparameterError as error:
        errors += str(error).splitlines()
    if len(trials) > MAX_TRIALS:
        errors.append(
            f"{study.name} has {counted(len(trials), 'trial')}: must be at most {MAX_TRIALS}; use fewer seeds"
        )
    planned = StudyPlan(artefact=study, workload=workload, options=options, trials=trials)
    if not figure_errors:
        try:  # resolves the metrics of the figures, which may not exist on this workload
            _ = planned.figure, planned.extra_figures
        except HyperparameterError as error:
            errors += str(error).splitlines()
    if errors:
        raise HyperparameterError("\n".join(errors))
    return planned


def missing(plan: StudyPlan) -> Work:
    """Return the missing trials and the trials of `--rerun`; none with `--report-only`."""
    untrained = _to_train(plan)
    todo = [] if plan.options.report_only else untrained
    summary = _summary(plan.trials, len(untrained))
    work = Work(count=len(todo), summary=summary, trials=todo, on_ray=True)
    partial = coverage.warnings(plan.trials)
    if not plan.options.dry_run:
        lines = [*_warnings(plan), *partial] if todo else partial
        return replace(work, summary="\n".join([summary, *lines]))
    details = _details(plan, {trial.config.trial_key for trial in todo})
    records = [
        {"key": t.config.trial_key, "arm": t.arm.label, "config": t.config.to_dict()} for t in todo
    ]
    return replace(work, details=details, records=records)


def view(plan: StudyPlan) -> View:
    """Return the description of the MLflow runs of the trials, of each arm and of the study."""
    return TrialsView(
        facts=plan.artefact,
        workload=plan.workload,
        options=plan.options,
        selection=plan.selection,
        metric=plan.figure.metric,
        trials=lambda: reported(plan).trials,
    )


def state(study: Study, root: Path) -> str:
    """Return the numbers of finished and planned trials as `20/50`."""
    trials = study.trials()
    return f"{len(trials) - len(status.missing(trials, root))}/{len(trials)}"


def _to_train(plan: StudyPlan) -> list[Trial]:
    todo = status.missing(plan.trials, plan.root, plan.options.retry)
    known = {trial.config.trial_key for trial in todo}
    rerun = [
        trial for trial in plan.trials if trial.config.trial_key.startswith(plan.options.rerun)
    ]
    return todo + [trial for trial in rerun if trial.config.trial_key not in known]


def _summary(trials: Sequence[Trial], todo: int) -> str:
    """Return `50 trials (10 arms x 5 seeds): 20 done, 30 to go`."""
    seeds = len({trial.config.seed for trial in trials})
    arms = len({trial.config.group_key for trial in trials})
    complete = arms * seeds == len(trials)
    operator = " x" if complete else ", up to"
    grid = f"{counted(arms, 'arm')}{operator} {counted(seeds, 'seed')}"
    return f"{counted(len(trials), 'trial')} ({grid}): {len(trials) - todo} done, {todo} to go"


def _details(plan: StudyPlan, todo: set[str]) -> list[str]:
    """Return a line for each arm, and lines about the coverage and the power of the claims."""
    from studies.harness.evidence.power import sentences

    arms: dict[str, list[Trial]] = {}
    for trial in plan.trials:
        arms.setdefault(trial.arm.label, []).append(trial)
    width = max(map(len, arms))
    lines = []
    for label, members in arms.items():
        number = sum(trial.config.trial_key in todo for trial in members)
        seeds = ",".join(str(trial.config.seed) for trial in members)
        noun, epochs = "seed" if len(members) == 1 else "seeds", members[0].config.epochs
        parts = f"{noun} {seeds}", counted(epochs, "epoch"), f"{number} to train"
        lines.append(f"  {label:{width}}  {'; '.join(parts)}")
    lines += [*coverage.lines(plan.trials), *coverage.warnings(plan.trials)]
    return [*lines, *sentences(_power(plan, plan.root))]


def _warnings(plan: StudyPlan) -> list[str]:
    """Return a line if the plan has too few seeds to conclude; none for a smoke run."""
    from studies.harness.evidence.power import warnings

    return [] if plan.options.smoke else warnings(_power(plan))


def _power(plan: StudyPlan, root: Path | None = None) -> Power:
    from studies.harness.evidence.power import power

    trials = reported(plan).trials
    seeds = min(Counter(trial.config.group_key for trial in trials).values())
    labels = list(dict.fromkeys(trial.arm.label for trial in trials))
    claims, metric = plan.artefact.claims_on(plan.workload), plan.figure.metric
    return power(claims, labels, plan.workload, seeds, metric, root)


def reported(plan: StudyPlan) -> StudyPlan:
    """Return a plan with the trials of its arms that were trained with other seeds."""
    groups: dict[str, Trial] = {}
    for trial in plan.trials:
        groups.setdefault(trial.config.group_key, trial)
    planned = {trial.config.trial_key for trial in plan.trials}
    seeds = {trial.config.seed for trial in plan.trials}
    seeds |= trained_seeds(plan.root).get(plan.workload, set())
    trials = [
        Trial(arm, config.with_seed(seed))
        for seed in sorted(seeds)
        for arm, config in groups.values()
    ]
    known = [
        trial
        for trial in trials
        if trial.config.trial_key in planned or status.has_begun(trial, plan.root)
    ]
    return replace(plan, trials=known)


def stored(study: Study, root: Path) -> Stored:
    """Return the plans of the stored reports, and a plan for each other workload with results.

    A workload without a description of its report has results if the folder contains a trial of
    each arm, or any trial and a report of an earlier version.

    Raises:
        StoreError: A trial folder is damaged, or a newer version wrote it.
    """
    for folder in trial_folders(root):
        read_config(folder)  # raises StoreError if the folder is damaged
    described = stored_plans(study, root)
    reports_on = {plan.workload for plan in described.plans if not plan.selection}
    for workload, seeds in sorted(trained_seeds(root).items()):
        if workload in reports_on:
            continue
        try:
            candidates = study.trials(workload, sorted(seeds))
        except HyperparameterError:  # the arms are invalid on this workload
            continue
        options = Options(out=root, workload=workload)
        on_workload = study_on_workload(study, workload, options)
        whole = StudyPlan(
            artefact=on_workload, workload=workload, options=options, trials=candidates
        )
        trials = [trial for trial in candidates if status.has_begun(trial, root)]
        complete = {t.config.group_key for t in trials} == _groups(whole)
        if trials and (complete or whole.folder.is_dir()):
            described.plans.append(replace(whole, trials=trials))
    return described
