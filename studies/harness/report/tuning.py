"""The section of a report about the tuning of the hyperparameters of each optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precond.counts import counted
from studies.harness.design.arms import Trial, spelled, value
from studies.harness.evidence.metrics import show, words
from studies.harness.report.document import Block, Heading, Table, Text
from trainables.recipes import Recipe, Tuned
from trainables.recipes.tuning import SPACES, Ledger, committed_ledger
from trainables.workloads import find_recipe, resolve

DEFAULT, PROVISIONAL = "default", "not tuned (provisional)"
SET = "set by the study or the command line"
HEADER = (
    "optimizer",
    "searched",
    "configurations x seeds",
    "selected",
    "score",
    "values in this study",
)


def section(trials: Sequence[Trial]) -> list[Block]:
    """Return the section on the tuning of the trials' optimizers."""
    workload = trials[0].config.workload
    recipe, ledger = find_recipe(workload), committed_ledger(workload)
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        variant = " as-released" if trial.arm.as_released else ""
        groups.setdefault(trial.arm.optimizer + variant, []).append(trial)
    tunings = {name: tuning_of(recipe, ledger, members[0]) for name, members in groups.items()}
    origin = _origin(workload, recipe, ledger)
    rows = [
        [name, *_search(tuning, groups[name][0]), sources(groups[name], recipe, tuning)]
        for name, tuning in tunings.items()
    ]
    caption = "Tuning: the search behind the values of each optimizer."
    if not any(tunings.values()):
        rows = [[row[0], row[-1]] for row in rows]
        table = Table("tuning", [HEADER[0], HEADER[-1]], rows, text=(0, 1), caption=caption)
        return [Heading("Tuning"), Text(origin), table]
    table = Table("tuning", [*HEADER], rows, text=(0, 1, 2, 3, 5), caption=caption)
    return [Heading("Tuning"), Text(" ".join([origin, *_scores([*tunings.values()])])), table]


def tuning_of(recipe: Recipe, ledger: Ledger | None, trial: Trial) -> Tuned | None:
    """Return the tuning of a trial's optimizer, or None if the optimizer was not tuned."""
    name, workload = trial.arm.optimizer, trial.config.workload
    winner = ledger.winner(name) if ledger else None
    if ledger is None or winner is None:
        return recipe.tuned.get(name)
    rows = [row for row in ledger.rows if row.optimizer == name]
    return Tuned(
        workload=workload,
        optimizer=name,
        ranges=SPACES[name],
        configurations=len({row.configuration for row in rows}),
        seeds=tuple(sorted({row.seed for row in rows})),
        metric=ledger.metric,
        values=winner.values,
        score=winner.mean,
    )


def _origin(workload: str, recipe: Recipe, ledger: Ledger | None) -> str:
    """Return sentences about the source of the recipe's values."""
    if ledger:
        return (
            f"`python -m studies tune-recipe {workload}` chose the values of the recipe. It trained "
            "the same number of configurations of each optimizer, with seeds that no study uses. "
            "The scores were measured on a held-out part of the training set."
        )
    if recipe.paper:
        assumed = " The paper does not state the values that are listed as assumed."
        return (
            f"The values are those of the recipe of the {recipe.paper} paper. They were not tuned on "
            f"this workload.{assumed if recipe.assumed else ''}"
        )
    if recipe.tuned:
        return "The values of the recipe were tuned by hand, with seeds that no study uses."
    return "The values of the recipe are provisional: they were not tuned on this workload."


def _scores(tunings: Sequence[Tuned | None]) -> list[str]:
    """Return sentences about the scores and the number of configurations."""
    tuned = [tuning for tuning in tunings if tuning]
    metrics = dict.fromkeys(words(tuning.metric) for tuning in tuned)
    sentences = [
        f"A score is the mean {' or '.join(metrics)} over the seeds. The scores are not results, "
        "because each is the best of many."
    ]
    if any(tuning.metric.startswith("test/") for tuning in tuned):
        sentences.append("The configurations were selected on the test set, but with other seeds.")
    if len({tuning.configurations if tuning else 0 for tuning in tunings}) > 1:
        sentences.append("The optimizers were not tuned with the same number of configurations.")
    return sentences


def _search(tuning: Tuned | None, trial: Trial) -> list[str]:
    """Return the cells about the search: its ranges, its size, the selected values, the score."""
    if tuning is None:
        return ["-"] * 4
    ranges = ", ".join(f"{name} {lo:g} to {hi:g}" for name, (lo, hi) in tuning.ranges.items())
    subject = f" for {tuning.optimizer}" if tuning.optimizer != trial.arm.optimizer else ""
    place = f" on {tuning.workload}" if tuning.workload != trial.config.workload else ""
    size = (
        f"{tuning.configurations} x {counted(len(tuning.seeds), 'seed')} ({_listed(tuning.seeds)})"
    )
    score = show(tuning.metric, tuning.score)
    return [f"{ranges}{subject}{place}", size, settings(tuning.values), score]


def _listed(seeds: Sequence[int]) -> str:
    """Return seeds as `100 to 102`, or as `3, 7` if they are not consecutive."""
    first, last = seeds[0], seeds[-1]
    if len(seeds) > 2 and list(seeds) == list(range(first, last + 1)):
        return f"{first} to {last}"
    return ", ".join(map(str, seeds))


def sources(trials: Sequence[Trial], recipe: Recipe, tuning: Tuned | None) -> str:
    """Return the names of the hyperparameters of an optimizer's trials by the source of the value."""
    arm, config = trials[0]
    # The batch size of the recipe may be too large for the user's own data.
    fields = {"batch_size": config.batch_size, "epochs": config.epochs}
    plain = resolve(config.workload, arm.optimizer, {}, fields, as_released=arm.as_released)
    defined = plain.hyperparameters
    groups: dict[str, list[str]] = {}
    for name in config.hyperparameters:
        used = list(dict.fromkeys(str(spelled(value(trial.config, name))) for trial in trials))
        source = _source(name, trials, recipe, tuning, defined)
        text = f"{name}={', '.join(used)}" if source == SET else name
        groups.setdefault(source, []).append(text)
    if groups.pop(DEFAULT, None):
        groups[DEFAULT] = ["all others"]
    return "; ".join(f"{source}: {', '.join(names)}" for source, names in groups.items())


def _source(
    name: str,
    trials: Sequence[Trial],
    recipe: Recipe,
    tuning: Tuned | None,
    defined: Mapping[str, Any],
) -> str:
    """Return the source of the value of a hyperparameter.

    `defined` has the values of the recipe for the variant of the trials, including the defaults.
    """
    arm = trials[0].arm
    if any(name in trial.arm.factors for trial in trials):
        return "varied"
    if any(value(trial.config, name) != defined[name] for trial in trials):
        return SET
    if tuning and name in tuning.values and tuning.values[name] == defined[name]:
        return "tuned"
    if arm.as_released and name in recipe.as_released.get(arm.optimizer, {}):
        return "released code"
    if name not in recipe.optimizers.get(arm.optimizer, {}):
        return DEFAULT
    return f"recipe of the {recipe.paper} paper" if recipe.paper else PROVISIONAL


def settings(values: Mapping[str, float]) -> str:
    """Return values as `lr=0.1, damping=1`."""
    return ", ".join(f"{name}={number:g}" for name, number in values.items())
