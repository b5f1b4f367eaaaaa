"""From a study and a command line to trials: what is selected, what is set, what is still to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from precond.hyperparameters import HyperparameterError, nearest
from precond.registry import REGISTRY
from studies.harness.design.arms import Arm, Trial
from studies.harness.design.options import SMOKE_EPOCHS, SMOKE_LEVELS, SMOKE_SEEDS, Options, report_folder
from studies.harness.evidence import status
from studies.harness.kinds.artefact import Plan, Work, workloads
from studies.harness.kinds.study.study import Study
from studies.harness.published import papers
from studies.harness.published.strict_yaml import YamlError
from studies.harness.tracking.view import View
from studies.harness.tracking.views import TrialsView
from trainables.store import read_config, trial_folders
from trainables.workloads import RECIPE_SETTINGS, settable

MAX_TRIALS = 10_000


@dataclass(frozen=True, kw_only=True)
class StudyPlan(Plan):
    """A study with the trials that a command names, all of one workload."""

    artefact: Study


def plans(study: Study, options: Options) -> list[StudyPlan]:
    """Return a plan for each workload that the command names, or for the study's own.

    Raises:
        HyperparameterError: One line for each error in any of them.
    """
    planned, errors = [], []
    for workload in workloads(study, options):
        try:
            planned.append(plan(study, options, workload))
        except HyperparameterError as error:
            errors += str(error).splitlines()
    if errors:
        raise HyperparameterError("\n".join(dict.fromkeys(errors)))
    return planned


def plan(study: Study, options: Options, workload: str | None = None) -> StudyPlan:
    """Return the trials that a command names on a workload; on the first that it names if None.

    Raises:
        HyperparameterError: One line for each error.
    """
    workload = workload or workloads(study, options)[0]
    study = _on(study, workload, options)
    levels = _with_epochs(study, options)
    errors = _errors(study, options, levels)
    arms = [_with_settings(arm, options.settings) for arm in _with_levels(study.arms, levels)]
    chosen = [arm for arm in arms if _selected(arm, options)]
    if not chosen and not errors:
        errors.append("--optimizers and --only leave no arm of the study")
    seeds, recipe = options.seeds, _recipe(options, levels)
    if options.smoke:
        chosen, seeds = _fewer_levels(chosen), seeds or SMOKE_SEEDS
    trials: list[Trial] = []
    try:  # also after an error: the values of the other arms are worth a line, too
        trials = study.trials(workload, seeds, recipe, arms=chosen or arms)
    except HyperparameterError as error:
        errors += str(error).splitlines()
    if len(trials) > MAX_TRIALS:
        errors.append(f"{study.name} has {len(trials)} trials: at most {MAX_TRIALS}; take fewer seeds")
    if errors:
        raise HyperparameterError("\n".join(errors))
    return StudyPlan(artefact=study, workload=workload, options=options, trials=trials)


def missing(plan: StudyPlan) -> Work:
    """Return the trials without a result, and those to train again; none with `--report-only`."""
    todo = [] if plan.options.report_only else _to_train(plan)
    keys = {trial.config.trial_key for trial in todo}
    records = [{"key": t.config.trial_key, "arm": t.arm.label, "config": t.config.to_dict()} for t in todo]
    details = _details(plan, keys) if plan.options.dry_run else []
    return Work(
        count=len(todo),
        summary=_summary(plan.trials, len(todo)),
        details=details,
        records=records if plan.options.dry_run else [],
        trials=todo,
        on_ray=True,
    )


def view(plan: StudyPlan) -> View:
    """Return the MLflow runs of the trials, of their seed groups and of the study."""
    metric = plan.artefact.figure.metric
    facts = {"facts": plan.artefact, "workload": plan.workload, "options": plan.options}
    return TrialsView(**facts, metric=metric, trials=lambda: plan.trials)


def state(study: Study, root: Path) -> str:
    """Return finished over planned trials."""
    trials = study.trials()
    return f"{len(trials) - len(status.missing(trials, root))}/{len(trials)}"


def _to_train(plan: StudyPlan) -> list[Trial]:
    todo = status.missing(plan.trials, plan.root, plan.options.retry)
    known = {trial.config.trial_key for trial in todo}
    again = [trial for trial in plan.trials if trial.config.trial_key.startswith(plan.options.rerun)]
    return todo + [trial for trial in again if trial.config.trial_key not in known]


def _summary(trials: Sequence[Trial], todo: int) -> str:
    """Return `50 trials (10 arms x 5 seeds): 20 done, 30 to go`."""
    seeds = len({trial.config.seed for trial in trials})
    arms = len({trial.config.group_key for trial in trials})
    grid = f"{arms} arms x {seeds} seeds" if arms * seeds == len(trials) else f"{arms} arms, up to {seeds} seeds"
    return f"{len(trials)} trials ({grid}): {len(trials) - todo} done, {todo} to go"


def _details(plan: StudyPlan, todo: set[str]) -> list[str]:
    """Return a line for each arm, and the smallest difference that the seeds can show."""
    from studies.harness.evidence.contrasts import smallest_difference

    arms: dict[str, list[Trial]] = {}
    for trial in plan.trials:
        arms.setdefault(trial.arm.label, []).append(trial)
    width = max(map(len, arms))
    lines = []
    for label, members in arms.items():
        count = sum(trial.config.trial_key in todo for trial in members)
        seeds = ",".join(str(trial.config.seed) for trial in members)
        lines.append(f"  {label:{width}}  seeds {seeds}  {members[0].config.epochs} epochs  {count} to train")
    return [*lines, smallest_difference(plan.trials, plan.root, plan.artefact.figure.metric)]


def stored(study: Study, root: Path) -> list[StudyPlan]:
    """Return the workloads on which an output folder has a report of the study, or all of its trials.

    The trials are those of every seed that is there, with the levels and values of the study's file: those of other
    flags are sent by the same command with `--report-only`.
    """
    seeds: dict[str, set[int]] = {}
    known = set()
    for folder in trial_folders(root):
        config = read_config(folder)["config"]
        seeds.setdefault(config["workload"], set()).add(config["seed"])
        known.add(folder.name)
    planned = []
    for workload, present in sorted(seeds.items()):
        try:
            everything = study.trials(workload, sorted(present))
            default = study.trials(workload)
        except HyperparameterError:  # not a study of this workload
            continue
        if report_folder(root, study.name, workload).is_dir() or not status.missing(default, root):
            trials = [trial for trial in everything if trial.config.trial_key[:16] in known]
            planned.append(StudyPlan(artefact=study, workload=workload, options=Options(out=root), trials=trials))
    return planned


def _on(study: Study, workload: str, options: Options) -> Study:
    """Return the study with its arms on a workload, and one for each plugin's optimizer that `--optimizers` names."""
    arms = study.arms_of(workload)
    plugins = [name for name in options.optimizers or [] if name in REGISTRY and REGISTRY[name].plugin]
    known = {arm.optimizer for arm in arms}
    arms += [Arm(optimizer=name) for name in plugins if name not in known]
    return replace(study, arms=arms, arms_on={}, workload=workload)


def _with_epochs(study: Study, options: Options) -> dict[str, list[Any]]:
    """`--levels`; where a study varies the number of epochs, `--epochs` is one of them."""
    epochs = _epochs(options)
    varied = epochs is not None and "epochs" not in options.levels and "epochs" in _levels(study.arms)
    return {**options.levels, "epochs": [epochs]} if varied else options.levels


def _epochs(options: Options) -> int | None:
    return SMOKE_EPOCHS if options.smoke and options.epochs is None else options.epochs


def _recipe(options: Options, levels: dict[str, list[Any]]) -> dict[str, Any]:
    """What the command sets instead of the recipe's values."""
    recipe = {name: value for name, value in options.settings.items() if name in RECIPE_SETTINGS}
    epochs = _epochs(options)
    if epochs is not None and "epochs" not in levels and (options.epochs is not None or "epochs" not in recipe):
        recipe["epochs"] = epochs
    if options.workers_per_trial != 1:
        recipe["workers"] = options.workers_per_trial
    return recipe


def _errors(study: Study, options: Options, wanted: dict[str, list[Any]]) -> list[str]:
    """Return the errors in the command's names and levels; `wanted` are the levels that it sets."""
    known = list(dict.fromkeys(arm.optimizer for arm in study.arms))
    errors = [
        f'--optimizers = "{name}": not in {study.name}.{nearest(name, known)}'
        for name in options.optimizers or []
        if name not in known
    ]
    levels = _levels(_with_levels(study.arms, wanted))
    for factor in [*options.levels, *options.only]:
        if factor not in levels:
            errors.append(f"{factor}: not a factor of {study.name}.{nearest(factor, levels)}")
    for factor, selected in options.only.items():
        listed = ", ".join(map(str, levels.get(factor, [])))
        errors += [
            f"--only {factor}={level}: not a level of {study.name}; it has {listed}"
            for level in selected
            if factor in levels and level not in levels[factor]
        ]
    try:  # a broken file of published numbers must not come up after hours of training
        papers.paper(study.paper)
    except YamlError as error:
        errors += str(error).splitlines()
    names = {name for optimizer in known for name in settable(optimizer)}
    for name, value in options.settings.items():
        if name in levels:
            errors.append(f"--set {name}={value}: {study.name} varies it; use --levels {name}={value}")
        elif name not in names:
            errors.append(f"--set {name}: no optimizer of {study.name} has it.{nearest(name, sorted(names))}")
    return errors


def _levels(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Each factor's levels, in order."""
    levels: dict[str, list[Any]] = {}
    for arm in arms:
        for factor in arm.factors:
            seen = levels.setdefault(factor, [])
            if arm.overrides[factor] not in seen:
                seen.append(arm.overrides[factor])
    return levels


def _with_levels(arms: Sequence[Arm], levels: dict[str, list[Any]]) -> list[Arm]:
    """The arms with other levels for some factors, each once, in place of those they replace."""
    for factor, wanted in levels.items():
        varied = [
            replace(arm, overrides={**arm.overrides, factor: level}) if factor in arm.factors else arm
            for arm in arms
            for level in wanted
        ]
        arms = list({(arm.label, str(arm.overrides)): arm for arm in varied}.values())
    return list(arms)


def _with_settings(arm: Arm, settings: dict[str, Any]) -> Arm:
    """The arm with the hyperparameters that its optimizer has."""
    known = settable(arm.optimizer) - {*RECIPE_SETTINGS}
    return replace(arm, overrides={**arm.overrides, **{name: v for name, v in settings.items() if name in known}})


def _selected(arm: Arm, options: Options) -> bool:
    """Whether an arm is named by `--optimizers` and `--only`; references, which have no factor, stay."""
    if options.optimizers and arm.optimizer not in options.optimizers:
        return False
    return all(arm.overrides[f] in levels for f, levels in options.only.items() if f in arm.factors)


def _fewer_levels(arms: Sequence[Arm]) -> list[Arm]:
    """The first two levels of each optimizer, faithful and consistent."""
    kept: dict[tuple[str, bool], list[Arm]] = {}
    for arm in arms:
        kept.setdefault((arm.optimizer, arm.faithful), []).append(arm)
    return [arm for same in kept.values() for arm in same[:SMOKE_LEVELS]]
