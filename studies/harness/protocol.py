"""How trials were trained, in words: what was held fixed, where that departs from the recipe, what was assumed."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.study import Trial
from trainables.settings import significant
from trainables.workloads import deviations, stated_recipe

HELD = ("workload", "batch_size", "epochs", "schedule", "seed")
ONLY_IF_SET = ("precision", "compile", "channels_last", "workers", "train_fraction", "plugin")


def paragraphs(trials: Sequence[Trial]) -> list[str]:
    """Markdown paragraphs about a study's trials."""
    found = [f"**Held fixed.** {_held(trials)}", _hyperparameters(trials)]
    if departures := _departures(trials):
        found += ["**Departures from the recipe.** What `--set` and the like changed:", departures]
    recipe = stated_recipe(trials[0].config.workload)
    if recipe.assumed:
        found.append(f"**Assumed**, since {recipe.paper}'s paper does not say: {'; '.join(recipe.assumed)}.")
    return found


def _held(trials: Sequence[Trial]) -> str:
    configs = [trial.config for trial in trials]
    values = {name: ", ".join(dict.fromkeys(str(getattr(config, name)) for config in configs)) for name in HELD}
    plain = {field: getattr(type(configs[0]), field) for field in ONLY_IF_SET}
    rest = {
        f"{name} {getattr(config, name)}": None
        for config in configs
        for name in ONLY_IF_SET
        if getattr(config, name) != plain[name]
    }
    settings = {f"{name} {value}": None for config in configs for name, value in significant(config.settings).items()}
    words = ", ".join([*settings, *rest])
    return (
        f"Workload {values['workload']}, batch size {values['batch_size']}, {values['epochs']} epochs, "
        f"{values['schedule']} schedule, seeds {values['seed']}{', ' + words if words else ''}; per optimizer:"
    )


def _hyperparameters(trials: Sequence[Trial]) -> str:
    lines = {}
    for arm, config in trials:
        fixed = {name: value for name, value in config.hyperparameters.items() if name not in arm.factors}
        lines[f"- `{arm.optimizer}`: " + ", ".join(f"{name}={value}" for name, value in fixed.items())] = None
    return "\n".join(lines)


def _departures(trials: Sequence[Trial]) -> str:
    """A line for each optimizer that is not trained as its recipe says; a study's own factors are no departure."""
    lines = {}
    for arm, config in trials:
        changed = {name: pair for name, pair in deviations(config).items() if name not in arm.factors}
        words = ", ".join(f"{name}={ours} (recipe: {theirs})" for name, (theirs, ours) in changed.items())
        if words:
            lines[f"- `{arm.optimizer}`: {words}"] = None
    return "\n".join(lines)
