"""The share of the model that the optimizers precondition, for plans, claims and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from precond import Coverage
from studies.harness.design import matching
from studies.harness.design.arms import Trial
from studies.harness.evidence.metrics import count
from trainables.coverage import coverage

if TYPE_CHECKING:  # the module imports pandas and SciPy, which a plan does not need
    from studies.harness.evidence.claims import Decision

SMALL_SHARE = 0.5  # below this share of the parameters, plans and claims have a warning


def groups(trials: Sequence[Trial]) -> dict[Coverage, list[str]]:
    """Return the names of the optimizers by their coverage.

    Optimizers that do not distinguish layers are omitted. An optimizer whose arms have different
    coverages is in several groups.
    """
    names: dict[Coverage, dict[str, None]] = {}
    for trial in {trial.config.group_key: trial for trial in trials}.values():
        if (covered := coverage(trial.config)) is not None:
            names.setdefault(covered, {})[trial.arm.optimizer] = None
    return {covered: [*optimizers] for covered, optimizers in names.items()}


def lines(trials: Sequence[Trial]) -> list[str]:
    """Return a line of a plan for each group of optimizers with equal coverage."""
    return [
        f"  {', '.join(names)}: preconditions {covered.layers} of "
        f"{count(covered.layers + covered.skipped, 'layer')}, {covered.share:.1%} of the parameters"
        for covered, names in groups(trials).items()
    ]


def warnings(trials: Sequence[Trial]) -> list[str]:
    """Return a line for each group of optimizers that preconditions less than half of the model."""
    return [
        f"Warning: {_sentence(', '.join(names), covered)}; the others are not preconditioned."
        for covered, names in groups(trials).items()
        if covered.share < SMALL_SHARE
    ]


def with_caveats(decisions: Sequence[Decision], trials: Sequence[Trial]) -> list[Decision]:
    """Return the decisions with a sentence about each optimizer of the claim with a small share."""
    sentences = {}
    for trial in trials:
        covered = coverage(trial.config)
        if covered is not None and covered.share < SMALL_SHARE:
            sentences[trial.arm.label] = f"{_sentence(trial.arm.optimizer, covered)}."
    labels = list(dict.fromkeys(trial.arm.label for trial in trials))
    return [
        replace(decision, caveat=_caveat(decision, sentences, labels)) for decision in decisions
    ]


def _caveat(decision: Decision, sentences: dict[str, str], labels: Sequence[str]) -> str:
    if not sentences:
        return ""
    named = [str(arm) for pair in matching.pairs(decision.claim, labels) for arm in pair]
    return " ".join(dict.fromkeys(sentences[arm] for arm in named if arm in sentences))


def _sentence(name: str, covered: Coverage) -> str:
    parameters = f"{covered.parameters:,} of {covered.total:,} parameters"
    return f"{name} preconditions {parameters} ({covered.share:.1%})"
