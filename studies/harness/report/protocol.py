"""Paragraphs on the protocol of trials: what was fixed, departures from the recipe, assumptions, provenance."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from studies.harness.design.arms import Arm, Trial
from studies.harness.design.facts import Facts
from studies.harness.evidence.ledger import PROVENANCE
from studies.harness.report.document import Text
from trainables.config import TrialConfig
from trainables.settings import significant
from trainables.workloads import deviations, find_recipe

FIXED = ("workload", "batch_size", "epochs", "schedule", "seed")
ONLY_IF_SET = ("precision", "compile", "channels_last", "workers", "train_fraction", "plugin")


def facts(artefact: Facts) -> list[Text]:
    """Return the paragraphs with which every report starts."""
    texts = {
        "Artefact": artefact.citation,
        "Claim": artefact.claim,
        "Falsifier": artefact.falsifier,
    }
    return [Text(text, label=name) for name, text in texts.items()]


def paragraphs(artefact: Facts, trials: Sequence[Trial]) -> list[Text]:
    """Return the paragraphs of a report about the trials of an artefact."""
    texts = [Text(_fixed(trials), label="Held fixed", items=_hyperparameters(trials))]
    if departures := _departures(trials):
        texts.append(
            Text(
                "What `--set` and the like changed:",
                label="Departures from the recipe",
                items=departures,
            )
        )
    workload = trials[0].config.workload
    recipe, reconstructed = find_recipe(workload), "; ".join(artefact.reconstructed)
    if recipe.assumed:
        texts.append(
            Text(
                f"{recipe.paper}'s paper does not say: {'; '.join(recipe.assumed)}.",
                label="Assumed",
            )
        )
    if reconstructed:
        words = f"{artefact.paper}'s text does not say, and the study sets: {reconstructed}."
        texts.append(Text(words, label="Reconstructed"))
    if artefact.papers_command and workload not in artefact.published:
        words = f"{workload} is not what the paper used. Its own: `{artefact.papers_command}`."
        texts.append(Text(words, label="The paper's workloads"))
    return texts


def _fixed(trials: Sequence[Trial]) -> str:
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
        dict.fromkeys(f", {name} {value}" for name, value in extra if name not in varied)
    )
    return (
        f"Workload {values['workload']}, batch size {values['batch_size']}, {values['epochs']} epochs, "
        f"{values['schedule']} schedule, seeds {values['seed']}{words}; per optimizer:"
    )


def _hyperparameters(trials: Sequence[Trial]) -> tuple[str, ...]:
    lines = []
    for arm, config in trials:
        fixed = [
            f"{name}={value}"
            for name, value in config.hyperparameters.items()
            if name not in arm.factors
        ]
        lines.append(f"{_named(arm)}: {', '.join(fixed)}")
    return tuple(dict.fromkeys(lines))


def _departures(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return a line for each optimizer whose settings differ from its recipe's; a study's own factors do not count."""
    lines = []
    for arm, config in trials:
        changed = [
            (name, *pair) for name, pair in deviations(config).items() if name not in arm.factors
        ]
        if words := ", ".join(
            f"{name}={ours} (recipe: {theirs})" for name, theirs, ours in changed
        ):
            lines.append(f"{_named(arm)}: {words}")
    return tuple(dict.fromkeys(lines))


def _named(arm: Arm) -> str:
    return f"`{arm.optimizer}`" + (" as-released" if arm.as_released else "")


def provenance(frame: pd.DataFrame) -> Text:
    """Return the software and the hardware of the trials of a `ledger.frame`, with counts if they are mixed."""
    parts = []
    for name in PROVENANCE:
        counts = frame[name].dropna().value_counts().sort_index()
        values = [
            f"{value} ({count} trials)" if len(counts) > 1 else str(value)
            for value, count in counts.items()
        ]
        parts.append(
            f"{name} {'mixed: ' if len(counts) > 1 else ''}{', '.join(values) or 'unknown'}"
        )
    return Text("Provenance: " + "; ".join(parts) + ".", note=True)
