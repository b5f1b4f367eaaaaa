"""The trials of a study that a command selects, and the missing trials among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precond.hyperparameters import HyperparameterError
from precond.registry import REGISTRY
from studies.harness.design.arms import Arm, Trial, levels_of
from studies.harness.design.options import (
    SMOKE_EPOCHS,
    SMOKE_LEVELS,
    SMOKE_SEEDS,
    Options,
    report_folder,
)
from studies.harness.evidence import status
from studies.harness.evidence.metrics import count
from studies.harness.kinds.artefact import (
    Plan,
    Work,
    plan_workloads,
    recipe,
    workloads,
)
from studies.harness.kinds.study.figures import Figure
from studies.harness.kinds.study.problems import (
    claim_problems,
    figure_problems,
    option_problems,
    unknown_optimizers,
)
from studies.harness.kinds.study.study import Study
from studies.harness.report import coverage
from studies.harness.tracking.view import View
from studies.harness.tracking.views import TrialsView
from trainables.store import read_config, trial_folders
from trainables.workloads import RECIPE_SETTINGS, settable

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
    figure_errors, claim_errors = figure_problems(study), claim_problems(study)
    study = _on_workload(study, workload, options)
    if errors := unknown_optimizers(study.arms):
        raise HyperparameterError("\n".join(errors))
    levels = _with_epochs(study, options)
    varied = _with_levels(study.arms, levels)
    errors = figure_errors + claim_errors + option_problems(study, options, levels_of(varied))
    arms = [_with_settings(arm, options.settings) for arm in varied]
    selected = [arm for arm in arms if _selected(arm, options)]
    if not selected and not errors:
        errors.append(f"--optimizers and --only select no arm of {study.name}")
    seeds = options.seeds
    if options.smoke:
        selected, seeds = _fewer_levels(selected), seeds or SMOKE_SEEDS
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
            f"{study.name} has {len(trials)} trials: must be at most {MAX_TRIALS}; use fewer seeds"
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
    metric = plan.figure.metric
    facts = {"facts": plan.artefact, "workload": plan.workload, "options": plan.options}
    return TrialsView(**facts, metric=metric, trials=lambda: plan.trials)


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
    grid = f"{count(arms, 'arm')}{operator} {count(seeds, 'seed')}"
    return f"{count(len(trials), 'trial')} ({grid}): {len(trials) - todo} done, {todo} to go"


def _details(plan: StudyPlan, todo: set[str]) -> list[str]:
    """Return a line for each arm, and lines about the coverage and the power of the claims."""
    from studies.harness.evidence.power import sentences

    arms: dict[str, list[Trial]] = {}
    for trial in plan.trials:
        arms.setdefault(trial.arm.label, []).append(trial)
    width = max(map(len, arms))
    lines = []
    for label, members in arms.items():
        count = sum(trial.config.trial_key in todo for trial in members)
        seeds = ",".join(str(trial.config.seed) for trial in members)
        epochs = members[0].config.epochs
        lines.append(f"  {label:{width}}  seeds {seeds}  {epochs} epochs  {count} to train")
    lines += [*coverage.lines(plan.trials), *coverage.warnings(plan.trials)]
    return [*lines, *sentences(_power(plan, plan.root))]


def _warnings(plan: StudyPlan) -> list[str]:
    """Return a line if the plan has too few seeds to conclude; none for a smoke run."""
    from studies.harness.evidence.power import warnings

    return [] if plan.options.smoke else warnings(_power(plan))


def _power(plan: StudyPlan, root: Path | None = None) -> Power:
    from studies.harness.evidence.power import power

    seeds = len({trial.config.seed for trial in plan.trials})
    labels = list(dict.fromkeys(trial.arm.label for trial in plan.trials))
    claims, metric = plan.artefact.claims_on(plan.workload), plan.figure.metric
    return power(claims, labels, plan.workload, seeds, metric, root)


def stored(study: Study, root: Path) -> list[StudyPlan]:
    """Return a plan for each workload with a report or with all of the study's trials.

    A plan contains the trials of all seeds in the output folder, with the levels and settings of
    the study file. To send trials with other levels or settings to MLflow, repeat the command that
    trained them, with `--report-only`.
    """
    seeds: dict[str, set[int]] = {}
    known = set()
    for folder in trial_folders(root):
        config = read_config(folder)["config"]
        seeds.setdefault(config["workload"], set()).add(config["seed"])
        known.add(folder.name)
    planned = []
    for workload, workload_seeds in sorted(seeds.items()):
        try:
            candidates = study.trials(workload, sorted(workload_seeds))
            default = study.trials(workload)
        except HyperparameterError:  # the arms are invalid on this workload
            continue
        if report_folder(root, study.name, workload).is_dir() or not status.missing(default, root):
            trials = [trial for trial in candidates if trial.config.trial_key[:16] in known]
            options = Options(out=root)
            planned.append(
                StudyPlan(artefact=study, workload=workload, options=options, trials=trials)
            )
    return planned


def _on_workload(study: Study, workload: str, options: Options) -> Study:
    """Return the study with its arms on a workload.

    An arm is added for each plugin optimizer in `--optimizers`.
    """
    arms = study.arms_of(workload)
    plugins = [
        name for name in options.optimizers or [] if name in REGISTRY and REGISTRY[name].plugin
    ]
    known = {arm.optimizer for arm in arms}
    arms += [Arm(optimizer=name) for name in plugins if name not in known]
    return replace(study, arms=arms, arms_on={}, workload=workload)


def _with_epochs(study: Study, options: Options) -> dict[str, list[Any]]:
    """Return the levels of the command. If the study varies the epochs, `--epochs` is a level."""
    epochs = SMOKE_EPOCHS if options.smoke and options.epochs is None else options.epochs
    if epochs is None or "epochs" in options.levels or "epochs" not in levels_of(study.arms):
        return options.levels
    return {**options.levels, "epochs": [epochs]}


def _with_levels(arms: Sequence[Arm], levels: dict[str, list[Any]]) -> list[Arm]:
    """Return the arms with `levels` instead of the study's levels, without duplicates."""
    for factor, values in levels.items():
        varied = [
            replace(arm, overrides={**arm.overrides, factor: level})
            if factor in arm.factors
            else arm
            for arm in arms
            for level in values
        ]
        arms = list({(arm.label, str(arm.overrides)): arm for arm in varied}.values())
    return list(arms)


def _with_settings(arm: Arm, settings: dict[str, Any]) -> Arm:
    """Return the arm with those settings that are hyperparameters of its optimizer."""
    known = settable(arm.optimizer) - {*RECIPE_SETTINGS}
    hyperparameters = {name: value for name, value in settings.items() if name in known}
    return replace(arm, overrides={**arm.overrides, **hyperparameters})


def _selected(arm: Arm, options: Options) -> bool:
    """Return True if `--optimizers` and `--only` select the arm.

    `--only` selects every arm that does not have the factor.
    """
    if options.optimizers and arm.optimizer not in options.optimizers:
        return False
    return all(arm.overrides[f] in levels for f, levels in options.only.items() if f in arm.factors)


def _fewer_levels(arms: Sequence[Arm]) -> list[Arm]:
    """Return the first `SMOKE_LEVELS` arms of each optimizer and variant, for a smoke run."""
    groups: dict[tuple[str, bool], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.optimizer, arm.as_released), []).append(arm)
    return [arm for group in groups.values() for arm in group[:SMOKE_LEVELS]]
