"""The errors in a study's literal and in the options of its command, one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precond.hyperparameters import nearest
from precond.peers.library import is_library_name
from precond.registry import REGISTRY, SEPARATOR, lookup, name_error
from studies.harness.design import matching
from studies.harness.design.arms import Arm, levels_of, spelled
from studies.harness.design.options import Options
from studies.harness.kinds.planning import setting_errors
from studies.harness.kinds.study.figures import unknown_metrics
from studies.harness.kinds.study.study import Study
from studies.harness.published import papers
from studies.harness.published.strict_yaml import YamlError

ADVICE = "; or name its file with --plugin"  # for a name that is not registered


def figure_problems(study: Study) -> list[str]:
    """Return the errors in the names of the figures.

    The names are those of the study's literal, because the command may select some of its arms only.
    """
    arms = _literal(study)
    optimizers = list(dict.fromkeys(arm.optimizer for arm in arms))
    return [
        f"{type(figure).__name__} of {study.name}: {line}"
        for figure in (study.figure, *study.extra_figures)
        for line in figure.problems(optimizers, levels_of(arms))
    ]


def claim_problems(study: Study) -> list[str]:
    """Return the errors in the claims. Each label must be that of an arm on some workload."""
    if errors := matching.problems(study.claims, _labels(study)):
        return errors
    derived = [name for figure in (study.figure, *study.extra_figures) for name in figure.DERIVED]
    recorded = [claim for claim in study.claims if claim.metric not in ("", *derived)]
    return [
        f'claim "{claim.text}": {line}'
        for claim in recorded
        for line in unknown_metrics("metric", [claim.metric])
    ]


def _literal(study: Study) -> list[Arm]:
    return [*study.arms, *(arm for arms in study.arms_on.values() for arm in arms)]


def _labels(study: Study) -> list[str]:
    """Return the labels of the arms in the study's literal and on its workloads.

    On a workload, arms with the recipe's values are added, and as-released variants may be absent.
    """
    named = [name for name in study.arms_on if "/" in name]
    workloads = dict.fromkeys([study.workload, *study.published, *named])
    planned = [arm for workload in workloads for arm in study.arms_of(workload)]
    return list(dict.fromkeys(arm.label for arm in [*_literal(study), *planned]))


def unknown_optimizers(arms: Sequence[Arm]) -> list[str]:
    """Return a line for each optimizer of the arms that is not registered."""
    names = dict.fromkeys(arm.optimizer for arm in arms)
    return [error for name in names if (error := name_error(name, ADVICE))]


def option_problems(
    study: Study, options: Options, levels: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Return the errors in the names and levels of the command.

    Args:
        study: The study with its arms on the workload.
        options: The options of the command.
        levels: The levels of each factor, after those of the command have replaced the study's.
    """
    known = list(dict.fromkeys(arm.optimizer for arm in study.arms))
    plugins = [name for name, entry in REGISTRY.items() if entry.plugin]
    allowed = [*REGISTRY] if study.any_optimizer else [*dict.fromkeys([*known, *plugins])]
    errors = []
    for name in options.optimizers or []:
        error = name_error(name, ADVICE)
        if name in allowed or (not error and (study.any_optimizer or lookup(name).external)):
            continue
        named = is_library_name(name) or (study.any_optimizer and SEPARATOR in name)
        if error and named:
            errors.append(error)
            continue
        advice = ADVICE if error else ""
        errors.append(
            f'--optimizers = "{name}": not an optimizer of {study.name}.'
            f"{nearest(name, allowed, advice)}"
        )
    for factor in [*options.levels, *options.only]:
        if not levels:
            errors.append(
                f"{factor}: {study.name} has no factors; to set a hyperparameter, use "
                f"--set {factor}=VALUE"
            )
        elif factor not in levels:
            errors.append(f"{factor}: not a factor of {study.name}.{nearest(factor, levels)}")
    for factor, selected in options.only.items():
        listed = ", ".join(str(spelled(level)) for level in levels.get(factor, []))
        errors += [
            f"--only {factor}={spelled(level)}: not a level of {study.name}; its levels are {listed}"
            for level in selected
            if factor in levels and level not in levels[factor]
        ]
    try:  # an invalid file of published numbers must be reported before hours of training
        papers.paper(study.paper)
    except YamlError as error:
        errors += str(error).splitlines()
    advice = "varies {name}; use --levels {name}={value}"
    return errors + setting_errors(study, options, known, levels, advice)
