"""The section of a report about the tuning of the workload's recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from studies.harness.design.arms import Trial, value
from studies.harness.evidence.metrics import count, join_words, show, words
from studies.harness.report.document import Block, Heading, Table, Text
from trainables.recipes.tuning import SPACES, Candidate, Ledger, committed_ledger


def section(trials: Sequence[Trial]) -> list[Block]:
    """Return the section on the tuning of the trials' optimizers.

    Returns an empty list if the workload has no committed ledger.
    """
    workload = trials[0].config.workload
    ledger = committed_ledger(workload)
    if ledger is None:
        return []
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        variant = " as-released" if trial.arm.as_released else ""
        groups.setdefault(trial.arm.optimizer + variant, []).append(trial)
    rows = [[name, *_cells(ledger, members)] for name, members in groups.items()]
    text = (
        f"`python -m studies tune-recipe {workload}` chose the values of the recipe. It trained the "
        "same number of configurations of each optimizer, with seeds that no study uses. The score "
        f"of a configuration is its mean {words(ledger.metric)}, measured on a held-out part of the "
        "training set. The scores in this table are not results, because each is the best of many."
    )
    header = ["optimizer", "space", "trials", "values of the recipe", "score", "this study"]
    caption = f"Tuning of the recipe. Scores: mean {words(ledger.metric)}."
    table = Table("tuning", header, rows, text=(0, 1, 2, 3, 5), caption=caption)
    return [Heading("Tuning"), Text(text), table]


def _cells(ledger: Ledger, trials: Sequence[Trial]) -> list[str]:
    """Return the cells of an optimizer after its name; `trials` are its trials in the study."""
    optimizer = trials[0].arm.optimizer
    rows = [row for row in ledger.rows if row.optimizer == optimizer]
    winner = ledger.winner(optimizer)
    if winner is None:
        return ["-", "-", "untuned", "-", "-"]
    configurations = len({row.configuration for row in rows})
    size = f"{configurations} x {count(len({row.seed for row in rows}), 'seed')}"
    space = ", ".join(f"{name} {lo:g} to {hi:g}" for name, (lo, hi) in SPACES[optimizer].items())
    score = show(ledger.metric, winner.mean)
    return [space, size, settings(winner.values), score, _usage(winner, trials)]


def _usage(winner: Candidate, trials: Sequence[Trial]) -> str:
    """Return `as tuned`, or the tuned values that the trials vary or replace."""
    varied = [name for name in winner.values if any(name in trial.arm.factors for trial in trials)]
    changes = [f"varies {join_words(varied)}"] if varied else []
    for name, tuned in winner.values.items():
        used = dict.fromkeys(value(trial.config, name) for trial in trials)
        if name not in varied and list(used) != [tuned]:
            changes.append(f"{name}={', '.join(map(str, used))}")
    return ", ".join(changes) or "as tuned"


def settings(values: Mapping[str, float]) -> str:
    """Return values as `lr=0.1, damping=1`."""
    return ", ".join(f"{name}={number:g}" for name, number in values.items())
