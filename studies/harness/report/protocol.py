"""Paragraphs about the protocol: settings, departures from the recipe, assumptions, provenance."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from precond.counts import counted
from studies.harness.design.arms import Arm, Trial
from studies.harness.design.facts import Facts
from studies.harness.evidence.ledger import PROVENANCE
from studies.harness.evidence.metrics import join_words
from studies.harness.published import papers
from studies.harness.report.document import Details, Text
from trainables.config import TrialConfig
from trainables.settings import significant
from trainables.workloads import deviations, find_recipe

FIXED = ("workload", "batch_size", "epochs", "schedule", "seed")
ONLY_IF_SET = (
    *("precision", "compile", "channels_last", "workers", "train_fraction", "plugin", "data"),
)


def facts(artefact: Facts) -> list[Text]:
    """Return the paragraph that cites the paper; nothing for a user-defined artefact."""
    return [Text(text, label=name) for name, text in papers.statements(artefact).items()]


def section(artefact: Facts, trials: Sequence[Trial]) -> Details:
    """Return the section on the protocol of an artefact's trials."""
    texts = [Text(_fixed(trials), label="Settings", items=_hyperparameters(trials))]
    if departures := _departures(trials):
        text = "Settings that the study or the command line (`--set`) changed:"
        texts.append(Text(text, label="Departures from the recipe", items=departures))
    workload = trials[0].config.workload
    recipe = find_recipe(workload)
    names = dict.fromkeys(trial.arm.optimizer for trial in trials)
    if untuned := [f"`{name}`" for name in names if name not in recipe.optimizers]:
        text = f"The recipe of {workload} has no values for {join_words(untuned)}."
        texts.append(Text(f"{text} All other hyperparameters are the defaults.", label="Defaults"))
    if recipe.assumed:
        text = (
            f"Values of the recipe that the {recipe.paper} paper does not state, or that its "
            "released code contradicts:"
        )
        texts.append(Text(text, label="Assumed", items=recipe.assumed))
    if artefact.reconstructed:
        text = "Choices of this study:"
        if papers.paper(artefact.paper):
            text = f"Choices of this study that the {artefact.paper} paper does not state:"
        texts.append(Text(text, label="Reconstructed", items=artefact.reconstructed))
    if artefact.papers_command and workload not in artefact.published:
        text = f"The paper does not use {workload}. To run the workloads of the paper: "
        texts.append(Text(f"{text}`{artefact.papers_command}`.", label="Workloads of the paper"))
    return Details("Protocol", tuple(texts))


def _fixed(trials: Sequence[Trial]) -> str:
    """Return a sentence with the settings of the trials; a factor of the study is called varied."""
    configs = [trial.config for trial in trials]
    varied = {name for trial in trials for name in trial.arm.factors}
    values = {
        name: "varied"
        if name in varied
        else ", ".join(dict.fromkeys(str(getattr(config, name)) for config in configs))
        for name in FIXED
    }
    extra = [pair for config in configs for pair in significant(config.settings).items()]
    options = [(name, getattr(config, name)) for config in configs for name in ONLY_IF_SET]
    extra += [(name, value) for name, value in options if value != getattr(TrialConfig, name)]
    words = "".join(
        dict.fromkeys(f"; {name} {value}" for name, value in extra if name not in varied)
    )
    seeds = "seeds" if "," in values["seed"] else "seed"
    epochs = "number of epochs varied" if "epochs" in varied else _epochs(values["epochs"])
    return (
        f"Workload {values['workload']}; batch size {values['batch_size']}; {epochs}; schedule "
        f"{values['schedule']}; {seeds} {values['seed']}{words}. Hyperparameters that the study does "
        "not vary:"
    )


def _epochs(numbers: str) -> str:
    return f"{numbers} epochs" if "," in numbers else counted(int(numbers), "epoch")


def _hyperparameters(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return a line for each optimizer, after a line with the values that all of them share."""
    fixed = dict.fromkeys((_named(arm), _fixed_values(arm, config)) for arm, config in trials)
    first, *others = [values for _, values in fixed]
    shared = [value for value in first if others and all(value in other for other in others)]
    lines = [f"all optimizers: {', '.join(shared)}"] if shared else []
    for name, values in fixed:
        if rest := ", ".join(value for value in values if value not in shared):
            lines.append(f"{name}: {rest}")
    return tuple(lines)


def _fixed_values(arm: Arm, config: TrialConfig) -> tuple[str, ...]:
    values = config.hyperparameters.items()
    return tuple(f"{name}={value}" for name, value in values if name not in arm.factors)


def _departures(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return a line for each optimizer whose settings differ from the recipe.

    The factors of the study are omitted.
    """
    lines = []
    for arm, config in trials:
        changed = [
            (name, *pair) for name, pair in deviations(config).items() if name not in arm.factors
        ]
        if words := ", ".join(f"{name}={value} (recipe: {old})" for name, old, value in changed):
            lines.append(f"{_named(arm)}: {words}")
    return tuple(dict.fromkeys(lines))


def _named(arm: Arm) -> str:
    return f"`{arm.optimizer}`" + (" as-released" if arm.as_released else "")


def provenance(frame: pd.DataFrame) -> Text:
    """Return the software and the hardware of the trials of a `ledger.frame`.

    If there are several values, each is followed by its number of trials.
    """
    parts = []
    for name in PROVENANCE:
        counts = frame[name].dropna().value_counts().sort_index()
        values = [
            f"{value} ({counted(number, 'trial')})" if len(counts) > 1 else str(value)
            for value, number in counts.items()
        ]
        parts.append(
            f"{name} {'mixed: ' if len(counts) > 1 else ''}{', '.join(values) or 'unknown'}"
        )
    return Text("Provenance: " + "; ".join(parts) + ".", note=True)
