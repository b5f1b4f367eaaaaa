"""From a search and a command line to what is tuned where, and everything that is wrong with it."""

from __future__ import annotations

from dataclasses import replace

from precond import HyperparameterError
from precond.hyperparameters import nearest
from studies.harness.command.options import Options
from studies.harness.kinds.search.search import Search, SearchPlan
from studies.harness.kinds.study.plan import SMOKE_EPOCHS, SMOKE_LEVELS, SMOKE_SEEDS, SMOKE_WORKLOAD
from trainables.workloads import RECIPE_SETTINGS, settable, unknown_workload


def plans(search: Search, options: Options) -> list[SearchPlan]:
    """A plan for each workload that a command names, or for the search's own.

    Raises:
        HyperparameterError: One line for each thing that is wrong with any of them.
    """
    if options.smoke:
        search = replace(search, budget=min(search.budget, SMOKE_LEVELS))
    names = [name for name in options.workloads if not unknown_workload(name)] or [search.workload]
    made = [_plan(search, options, name) for name in ([SMOKE_WORKLOAD] if options.smoke else names)]
    wrong = _problems(search, options)
    wrong += [line for plan in made for line in plan.problems()]
    if wrong:
        raise HyperparameterError("\n".join(dict.fromkeys(wrong)))
    return made


def _plan(search: Search, options: Options, workload: str) -> SearchPlan:
    spaces = search.spaces_of(workload)
    chosen = [name for name in options.optimizers or spaces if name in spaces]
    recipe = {**search.published.get(workload, {})}
    recipe |= {name: value for name, value in options.settings.items() if name in RECIPE_SETTINGS}
    seeds = options.seeds
    if options.epochs is not None:
        recipe["epochs"] = options.epochs
    if options.smoke:
        chosen, seeds = chosen[:SMOKE_LEVELS], seeds or SMOKE_SEEDS
        recipe.setdefault("epochs", SMOKE_EPOCHS)
    if options.workers_per_trial != 1:
        recipe["workers"] = options.workers_per_trial
    return SearchPlan(
        search=search,
        workload=workload,
        spaces={name: spaces[name] for name in chosen},
        seeds=range(search.seeds) if seeds is None else seeds,
        recipe=recipe,
        settings={name: value for name, value in options.settings.items() if name not in RECIPE_SETTINGS},
    )


def _problems(search: Search, options: Options) -> list[str]:
    """What is wrong with the command's names, and with the seeds and the sampler."""
    from studies.harness.kinds.search.sampling import sampler_problem

    wrong = [
        f'--optimizers = "{name}": {search.name} has no space for it.{nearest(name, search.spaces)}'
        for name in options.optimizers or []
        if name not in search.spaces
    ]
    if problem := sampler_problem(search.sampler):
        wrong.append(problem)
    if search.tuning_seed in (options.seeds or range(search.seeds)):
        wrong.append(f"--seeds: {search.tuning_seed} is the search's own seed; fresh ones must be others")
    tuned = {name for space in search.spaces.values() for name in space}
    known = sorted({name for optimizer in search.spaces for name in settable(optimizer)})
    for name, value in options.settings.items():
        if name in tuned:
            wrong.append(f"--set {name}={value}: {search.name} tunes it; leave it out")
        elif name not in known:
            wrong.append(f"--set {name}: no optimizer of {search.name} has it.{nearest(name, known)}")
    for name in ("only", "levels", "rerun"):
        if getattr(options, name):
            wrong.append(f"--{name}: not for {search.name}, which is a search")
    return wrong
