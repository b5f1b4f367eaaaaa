"""How trials were trained, in words: what was held fixed, where that departs from the recipe, what was assumed."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.kinds.study.study import Arm, Artefact, Trial
from studies.harness.report.document import Text
from trainables.settings import significant
from trainables.workloads import deviations, stated_recipe

HELD = ("workload", "batch_size", "epochs", "schedule", "seed")
ONLY_IF_SET = ("precision", "compile", "channels_last", "workers", "train_fraction", "plugin")


def paragraphs(study: Artefact, trials: Sequence[Trial]) -> list[Text]:
    """Paragraphs of a report about the trials of a study or a probe."""
    found = [Text(_held(trials), label="Held fixed", items=_hyperparameters(trials))]
    if departures := _departures(trials):
        words = "What `--set` and the like changed:"
        found.append(Text(words, label="Departures from the recipe", items=departures))
    recipe = stated_recipe(trials[0].config.workload)
    if recipe.assumed:
        words = f"{recipe.paper}'s paper does not say: {'; '.join(recipe.assumed)}."
        found.append(Text(words, label="Assumed"))
    if study.reconstructed:
        words = f"{study.paper}'s text does not say, and the study sets: {'; '.join(study.reconstructed)}."
        found.append(Text(words, label="Reconstructed"))
    workload = trials[0].config.workload
    if study.papers_command and workload not in study.published:
        words = f"{workload} is not what the paper used. Its own: `{study.papers_command}`."
        found.append(Text(words, label="The paper's workloads"))
    return found


def _held(trials: Sequence[Trial]) -> str:
    configs = [trial.config for trial in trials]
    varied = {name for trial in trials for name in trial.arm.factors}
    values = {
        name: "varied" if name in varied else ", ".join(dict.fromkeys(str(getattr(config, name)) for config in configs))
        for name in HELD
    }
    plain = {field: getattr(type(configs[0]), field) for field in ONLY_IF_SET}
    rest = {
        f"{name} {getattr(config, name)}": None
        for config in configs
        for name in ONLY_IF_SET
        if name not in varied and getattr(config, name) != plain[name]
    }
    stated = [(name, value) for config in configs for name, value in significant(config.settings).items()]
    settings = {f"{name} {value}": None for name, value in stated if name not in varied}
    words = ", ".join([*settings, *rest])
    return (
        f"Workload {values['workload']}, batch size {values['batch_size']}, {values['epochs']} epochs, "
        f"{values['schedule']} schedule, seeds {values['seed']}{', ' + words if words else ''}; per optimizer:"
    )


def _hyperparameters(trials: Sequence[Trial]) -> tuple[str, ...]:
    lines = {}
    for arm, config in trials:
        fixed = {name: value for name, value in config.hyperparameters.items() if name not in arm.factors}
        lines[f"{_named(arm)}: " + ", ".join(f"{name}={value}" for name, value in fixed.items())] = None
    return tuple(lines)


def _departures(trials: Sequence[Trial]) -> tuple[str, ...]:
    """A line for each optimizer that is not trained as its recipe says; a study's own factors are no departure."""
    lines = {}
    for arm, config in trials:
        changed = {name: pair for name, pair in deviations(config).items() if name not in arm.factors}
        words = ", ".join(f"{name}={ours} (recipe: {theirs})" for name, (theirs, ours) in changed.items())
        if words:
            lines[f"{_named(arm)}: {words}"] = None
    return tuple(lines)


def _named(arm: Arm) -> str:
    return f"`{arm.optimizer}`" + (" faithful" if arm.faithful else "")
