"""The plan of a search for the options of a command, and the errors in the search and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import precond
from precond.hyperparameters import HyperparameterError, nearest
from studies.harness.design.arms import Arm, Trial
from studies.harness.design.options import SMOKE_LEVELS, SMOKE_SEEDS, Options
from studies.harness.evidence.metrics import HEADLINE, higher_is_better, on_workload
from studies.harness.kinds.artefact import Plan
from studies.harness.kinds.planning import plan_workloads, recipe, setting_errors, workloads
from studies.harness.kinds.search.search import TRAIN_FRACTION, Parameters, Search, Space
from studies.harness.kinds.selection import with_selection
from trainables.workloads import RECIPE_SETTINGS


@dataclass(frozen=True, kw_only=True)
class SearchPlan(Plan):
    """A search on one workload, with the options of a command.

    Attributes:
        spaces: The space of each optimizer to tune.
        seeds: The fresh seeds.
        recipe: The settings that replace the recipe's values, such as `batch_size`.
        settings: The hyperparameters of `--set`, for every optimizer that has them.
    """

    artefact: Search
    spaces: Mapping[str, Space]
    seeds: Sequence[int]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        """The number of configurations and fresh trials of all optimizers."""
        return (self.artefact.budget + len(self.seeds)) * len(self.spaces)

    @property
    def metric(self) -> str:
        """The metric of the fresh trials, such as `test/accuracy`."""
        return on_workload(f"test/{HEADLINE}", self.workload)

    @property
    def score(self) -> str:
        """The metric that scores a configuration, such as `val/accuracy`."""
        return on_workload(f"val/{HEADLINE}", self.workload)

    @property
    def higher(self) -> bool:
        """True if larger scores are better."""
        return higher_is_better(self.score)

    def tuning(self, optimizer: str, parameters: Parameters | None = None) -> Trial:
        """Return the trial that scores a configuration, by default the recipe's values.

        Raises:
            HyperparameterError: One line for each error.
        """
        arm = self._arm(optimizer, parameters or {})
        config = arm.resolve(self.workload, {**self.recipe, "train_fraction": TRAIN_FRACTION})
        return Trial(arm, config.with_seed(self.artefact.tuning_seed))

    def fresh(self, optimizer: str, parameters: Parameters | None = None) -> list[Trial]:
        """Return the trials of a configuration on the whole training set, one for each fresh seed.

        A study that contains the same configuration shares these trials.
        """
        arm = self._arm(optimizer, parameters or {})
        config = arm.resolve(self.workload, self.recipe)
        return [Trial(arm, config.with_seed(seed)) for seed in self.seeds]

    def start(self, optimizer: str) -> dict[str, Any]:
        """Return the first configuration, which has the recipe's values."""
        hyperparameters = self.tuning(optimizer).config.hyperparameters
        return {name: hyperparameters[name] for name in self.spaces[optimizer]}

    def problems(self) -> list[str]:
        """Return a line for each error in the spaces and in their values."""
        return [line for optimizer in self.spaces for line in self._problems(optimizer)]

    def _problems(self, optimizer: str) -> list[str]:
        known, errors = precond.defaults(optimizer), []
        for name, domain in self.spaces[optimizer].items():
            if name not in known or name == "seed":
                errors.append(
                    f"space of {optimizer}: {name}: unknown hyperparameter.{nearest(name, known)}"
                )
            elif problem := domain.problem():
                errors.append(f"space of {optimizer}: {name} = {domain}: {problem}")
        if errors:
            return errors
        try:
            start = self.start(optimizer)
        except HyperparameterError as error:
            return str(error).splitlines()
        for name, domain in self.spaces[optimizer].items():
            for end in domain.ends:
                errors += self._value_errors(optimizer, {**start, name: end})
            if not domain.holds(start[name]):
                place = f"space of {optimizer} on {self.workload}: {name} = {domain}"
                errors.append(
                    f"{place}: must contain the recipe's {start[name]}, because the search starts "
                    "with the recipe's values"
                )
        return list(dict.fromkeys(errors))

    def _value_errors(self, optimizer: str, parameters: Parameters) -> list[str]:
        try:
            self.tuning(optimizer, parameters)
        except HyperparameterError as error:
            return [f"space of {optimizer}: {line}" for line in str(error).splitlines()]
        return []

    def _arm(self, optimizer: str, parameters: Parameters) -> Arm:
        known = precond.defaults(optimizer)
        fixed = {k: v for k, v in self.settings.items() if k in known and k not in RECIPE_SETTINGS}
        return Arm(
            optimizer=optimizer, overrides={**fixed, **parameters}, factors=tuple(parameters)
        )


def plans(search: Search, options: Options) -> list[SearchPlan]:
    """Return the plans of a search (see `Artefact.plan`)."""
    changed, errors = _with_options(search, options.extra)
    errors += _errors(changed, options)
    return plan_workloads(changed, options, partial(_selected, search, options), errors)


def _selected(search: Search, options: Options, workload: str) -> SearchPlan:
    plan_of = partial(_plan, search, workload)
    return with_selection(plan_of(options), plan_of, _identity)


def _identity(plan: SearchPlan) -> Any:
    """Return what decides the configurations of a search and their scores."""
    trials = [plan.tuning(optimizer).config for optimizer in sorted(plan.spaces)]
    search = plan.artefact
    keys = [config.trial_key for config in trials]
    return search.budget, search.sampler, search.asha, {**plan.spaces}, keys


def _with_options(search: Search, extra: Mapping[str, Any]) -> tuple[Search, list[str]]:
    """Return the search with the values of `--budget`, `--sampler` and `--asha`, and the errors."""
    errors = []
    budget, sampler = extra.get("budget"), extra.get("sampler")
    if budget is not None:
        if budget.isdecimal() and int(budget) >= 1:
            search = replace(search, budget=int(budget))
        else:
            errors.append(f"--budget = {budget}: must be an integer >= 1")
    if sampler is not None:
        search = replace(search, sampler=sampler.lower().replace("-", "").removesuffix("sampler"))
    return replace(search, asha=search.asha or bool(extra.get("asha"))), errors


def _plan(search: Search, workload: str, options: Options) -> SearchPlan:
    search, _ = _with_options(search, options.extra)
    if options.smoke:
        search = replace(search, budget=min(search.budget, SMOKE_LEVELS))
    spaces = search.spaces_of(workload)
    optimizers = [name for name in options.optimizers or spaces if name in spaces]
    seeds = options.seeds
    if options.smoke:
        optimizers, seeds = optimizers[:SMOKE_LEVELS], seeds or SMOKE_SEEDS
    plan = SearchPlan(
        artefact=search,
        workload=workload,
        options=options,
        spaces={name: spaces[name] for name in optimizers},
        seeds=range(search.seeds) if seeds is None else seeds,
        recipe={**search.published.get(workload, {}), **recipe(options)},
        settings={
            name: value for name, value in options.settings.items() if name not in RECIPE_SETTINGS
        },
    )
    if problems := plan.problems():
        raise HyperparameterError("\n".join(problems))
    return plan


def _errors(search: Search, options: Options) -> list[str]:
    """Return the errors in the optimizers, the sampler, the seeds and the names of `--set`."""
    from studies.harness.kinds.search.sampling import sampler_problems

    no_space = f"{search.name} has no space for this optimizer"
    errors = [
        f'--optimizers = "{name}": {no_space}.{nearest(name, search.spaces)}'
        for name in options.optimizers or []
        if name not in search.spaces
    ]
    errors += sampler_problems(search.sampler, _new_spaces(search, options))
    if search.tuning_seed in (options.seeds or range(search.seeds)):
        errors.append(
            f"--seeds: {search.tuning_seed} is the seed of the tuning trials; use other seeds"
        )
    tuned = {name for space in search.spaces.values() for name in space}
    advice = "tunes {name}; remove this option"
    return errors + setting_errors(search, options, search.spaces, tuned, advice)


def _new_spaces(search: Search, options: Options) -> list[tuple[str, Space]]:
    """Return the optimizers and spaces for which the command makes proposals.

    A report needs no proposals.
    """
    if options.report_only:
        return []
    return [
        (optimizer, space)
        for workload in workloads(search, options)
        for optimizer, space in search.spaces_of(workload).items()
        if optimizer in (options.optimizers or search.spaces)
    ]
