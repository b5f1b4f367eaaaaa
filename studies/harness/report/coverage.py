"""The share of the model that the optimizers precondition, for a plan and for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from precond import Coverage
from studies.harness.design import matching
from studies.harness.design.arms import Trial
from studies.harness.evidence.claims import Decision
from studies.harness.report.document import Block, Details, Table, Text
from trainables.coverage import coverage

SMALL_SHARE = 0.5  # below this share of the parameters, plans and claims have a warning
HEADER = ["optimizer", "layers", "other layers", "parameters", "all parameters", "share"]
NOTE = (
    "A parameter that is not preconditioned follows its gradient. Layers are the modules that "
    "themselves have parameters. An optimizer that treats all parameters alike is not in the table."
)


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
        f"{covered.layers + covered.skipped} layers, {covered.share:.1%} of the parameters"
        for covered, names in groups(trials).items()
    ]


def warnings(trials: Sequence[Trial]) -> list[str]:
    """Return a line for each group of optimizers that preconditions less than half of the model."""
    return [
        f"Warning: {_sentence(', '.join(names), covered)}; all other parameters follow their "
        "gradient."
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


def section(trials: Sequence[Trial], on_terminal: bool) -> list[Block]:
    """Return the section with the table; nothing if no optimizer distinguishes layers.

    Args:
        trials: The trials.
        on_terminal: True if the command prints the warnings on the terminal.
    """
    rows = [
        [
            ", ".join(names),
            str(covered.layers),
            str(covered.skipped),
            f"{covered.parameters:,}",
            f"{covered.total:,}",
            f"{covered.share:.1%}",
        ]
        for covered, names in groups(trials).items()
    ]
    if not rows:
        return []
    table = Table("coverage", HEADER, rows, text=(0,), caption="Preconditioned layers.")
    warned = [Text(line, finding=True) for line in warnings(trials)]
    blocks = (*warned, table, Text(NOTE, note=True))
    return [Details("Preconditioned layers", blocks, on_terminal)]
