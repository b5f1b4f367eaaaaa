"""From a study and a command line to trials: what is selected, what is set, and everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from precond import HyperparameterError
from precond.hyperparameters import nearest
from precond.registry import REGISTRY
from studies.harness.command.options import Options
from studies.harness.kinds.study.study import Arm, Study, Trial
from studies.harness.published import papers as claims
from studies.harness.published.strict_yaml import YamlError
from trainables.workloads import RECIPE_SETTINGS, settable, unknown_workload

SMOKE_SEEDS, SMOKE_LEVELS, SMOKE_EPOCHS, SMOKE_WORKLOAD = [0, 1], 2, 2, "digits/cnn"
MAX_TRIALS = 10_000


@dataclass(frozen=True)
class Plan:
    """A study with the trials that a command names, all of one workload."""

    study: Study
    trials: Sequence[Trial]

    @property
    def workload(self) -> str:
        """The trials' workload."""
        return self.trials[0].config.workload


def plans(study: Study, options: Options) -> list[Plan]:
    """A plan for each workload that a command names, or for the study's own.

    Raises:
        HyperparameterError: One line for each thing that is wrong with any of them.
    """
    made, wrong = [], []
    for workload in _workloads(study, options):
        try:
            made.append(plan(study, options, workload))
        except HyperparameterError as error:
            wrong += str(error).splitlines()
    if wrong:
        raise HyperparameterError("\n".join(dict.fromkeys(wrong)))
    return made


def plan(study: Study, options: Options, workload: str | None = None) -> Plan:
    """The trials that a command names on a workload; the first that it names when None.

    Raises:
        HyperparameterError: One line for each thing that is wrong.
    """
    workload = workload or _workloads(study, options)[0]
    study = _on(study, workload, options)
    levels = _with_epochs(study, options)
    wrong = _problems(study, options, levels)
    arms = [_with_settings(arm, options.settings) for arm in _with_levels(study.arms, levels)]
    chosen = [arm for arm in arms if _selected(arm, options)]
    if not chosen and not wrong:
        wrong.append("--optimizers and --only leave no arm of the study")
    seeds, recipe = options.seeds, _recipe(options, levels)
    if options.smoke:
        chosen, seeds = _fewer_levels(chosen), seeds or SMOKE_SEEDS
    trials: list[Trial] = []
    try:  # also where something is wrong already: the values of the other arms are worth a line, too
        trials = study.trials(workload, seeds, recipe, arms=chosen or arms)
    except HyperparameterError as error:
        wrong += str(error).splitlines()
    if len(trials) > MAX_TRIALS:
        wrong.append(f"{study.name} has {len(trials)} trials: at most {MAX_TRIALS}; take fewer seeds")
    if wrong:
        raise HyperparameterError("\n".join(wrong))
    return Plan(study, trials)


def _workloads(study: Study, options: Options) -> list[str]:
    """Those that the command names and that there are, or the study's own."""
    known = [name for name in options.workloads if not unknown_workload(name)]
    return [SMOKE_WORKLOAD] if options.smoke else known or [study.workload]


def _on(study: Study, workload: str, options: Options) -> Study:
    """The study with its arms on a workload, and one for each optimizer of a plugin that `--optimizers` names."""
    arms = study.arms_of(workload)
    own = [name for name in options.optimizers or [] if name in REGISTRY and REGISTRY[name].plugin]
    known = {arm.optimizer for arm in arms}
    arms += [Arm(optimizer=name) for name in own if name not in known]
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


def _problems(study: Study, options: Options, wanted: dict[str, list[Any]]) -> list[str]:
    """What is wrong with the command's names and levels; `wanted` are the levels that it sets."""
    known = list(dict.fromkeys(arm.optimizer for arm in study.arms))
    wrong = [
        f'--optimizers = "{name}": not in {study.name}.{nearest(name, known)}'
        for name in options.optimizers or []
        if name not in known
    ]
    levels = _levels(_with_levels(study.arms, wanted))
    for factor in [*options.levels, *options.only]:
        if factor not in levels:
            wrong.append(f"{factor}: not a factor of {study.name}.{nearest(factor, levels)}")
    for factor, selected in options.only.items():
        listed = ", ".join(map(str, levels.get(factor, [])))
        wrong += [
            f"--only {factor}={level}: not a level of {study.name}; it has {listed}"
            for level in selected
            if factor in levels and level not in levels[factor]
        ]
    try:  # a broken file of published numbers must not come up after hours of training
        claims.paper(study.paper)
    except YamlError as error:
        wrong += str(error).splitlines()
    names = {name for optimizer in known for name in settable(optimizer)}
    for name, value in options.settings.items():
        if name in levels:
            wrong.append(f"--set {name}={value}: {study.name} varies it; use --levels {name}={value}")
        elif name not in names:
            wrong.append(f"--set {name}: no optimizer of {study.name} has it.{nearest(name, sorted(names))}")
    return wrong


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
    own = {name: v for name, v in settings.items() if name in settable(arm.optimizer) and name not in RECIPE_SETTINGS}
    return replace(arm, overrides={**arm.overrides, **own})


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
