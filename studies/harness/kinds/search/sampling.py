"""The use of Optuna: the next configuration of a search, and the journal for `optuna-dashboard`.

The next configuration is a pure function of the earlier outcomes: each proposal builds a new Optuna
study, with a sampler whose seed depends on the number of the proposal. A killed search therefore
continues with the same proposals. The journal is only for the dashboard; this package never reads
it.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from studies.harness.design.arms import spelled
from studies.harness.kinds.search.proposals import IN_FLIGHT, STOPPED, Outcome, Proposal
from studies.harness.kinds.search.search import Choice, Parameters, Range, Space
from trainables.config import stream_seed
from trainables.store import COMPLETED

DIGITS = 4  # significant digits of a proposed number, to keep recipes readable
# The population of genetic samplers. Optuna's default of 50 exceeds a typical budget, so that all
# configurations would belong to the first generation.
POPULATION = 8
# Packages that samplers need besides Optuna, and import when they first sample.
PACKAGES = {"cmaes": ("cmaes",), "gp": ("scipy", "torch"), "qmc": ("scipy",)}
STATES = {COMPLETED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, IN_FLIGHT: TrialState.RUNNING}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def samplers() -> dict[str, type[optuna.samplers.BaseSampler]]:
    """Return Optuna's samplers by name (`tpe`, `random`, ...).

    Only samplers that accept any range and need no argument are returned.
    """
    excluded = ("BaseSampler", "BaseGASampler", "BruteForceSampler")
    samplers = {}
    for name, sampler in vars(optuna.samplers).items():
        if name.endswith("Sampler") and name not in excluded:
            parameters = inspect.signature(sampler).parameters.values()
            if not any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters):
                samplers[name.removesuffix("Sampler").lower()] = sampler
    return samplers


def missing_packages(name: str) -> list[str]:
    """Return the packages that a sampler needs and that are not installed."""
    return [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]


def unsupported(name: str, space: Space) -> list[str]:
    """Return the hyperparameters that a sampler would draw at random instead of optimizing them.

    CMA-ES, for example, does not optimize a `Choice`.
    """
    if "independent_sampler" not in inspect.signature(samplers()[name]).parameters:
        return []  # the sampler leaves no hyperparameter to another sampler
    distributions = _distributions(space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = _sampler(name, seed=0)
        study = optuna.create_study(sampler=sampler)
        study.tell(study.ask(distributions), 0.0)  # samplers infer the space from finished trials
        number = study.ask().number
        optimized = sampler.infer_relative_search_space(study, study.trials[number])
    return [parameter for parameter in distributions if parameter not in optimized]


def sampler_problems(name: str, spaces: Sequence[tuple[str, Space]] = ()) -> list[str]:
    """Return errors if a sampler is unknown, lacks a package or does not support a space.

    Args:
        name: The name of the sampler.
        spaces: Pairs of an optimizer and its space. The errors list only the samplers that support
            all spaces.
    """
    # An invalid domain has its own error.
    spaces = [(of, s) for of, s in spaces if not any(domain.problem() for domain in s.values())]
    if name not in samplers():
        close = difflib.get_close_matches(name, _supporting(spaces), n=1)
        question = f' Did you mean "{close[0]}"?' if close else ""
        lines = [f'--sampler = "{name}": unknown.{question}']
    elif missing := missing_packages(name):
        packages = f"needs the package {' and '.join(missing)}, which is not installed"
        lines = [f"--sampler = {name}: {packages}."]
    else:
        lines = [
            f"--sampler = {name}: does not optimize {', '.join(parameters)} of {optimizer}, which "
            f"{'is not a range' if len(parameters) == 1 else 'are not ranges'} of numbers."
            for optimizer, space in spaces
            if (parameters := unsupported(name, space))
        ] or _import_errors(name)
    return [f"{line} Known: {', '.join(_supporting(spaces))}" for line in lines]


def _import_errors(name: str) -> list[str]:
    """Return the error of a sampler that imports its packages when it first samples."""
    try:
        space = {"x": Range(0.0, 1.0), "y": Range(0.0, 1.0)}
        first = Outcome(Proposal(0, {"x": 0.5, "y": 0.5}, ""), COMPLETED, 0.5, 0.5, {}, 0.0)
        propose(name, space, {}, [first], 0, higher=True)
    except ImportError as error:
        return [f"--sampler = {name}: {str(error).strip().partition(chr(10))[0].rstrip('.')}."]
    return []


def _supporting(spaces: Sequence[tuple[str, Space]]) -> list[str]:
    """Return the names of the samplers that are installed and support all spaces."""
    return [
        sampler
        for sampler in sorted(samplers())
        if not missing_packages(sampler)
        and not any(unsupported(sampler, space) for _, space in spaces)
    ]


def propose(
    name: str,
    space: Space,
    start: Parameters,
    outcomes: Sequence[Outcome],
    seed: int,
    higher: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the next configuration.

    Args:
        name: The name of the sampler.
        space: The domain of each hyperparameter.
        start: The first configuration.
        outcomes: The outcomes of all earlier proposals, in their order. A proposal in flight has no
            score.
        seed: The seed of the search, from which the seed of each proposal is derived.
        higher: True if larger scores are better.

    Returns:
        The parameters, and the attributes that the sampler stores with them.
    """
    storage, number = InMemoryStorage(), len(outcomes)
    proposal_seed = stream_seed(seed, "proposal", number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = _study(storage, "search", space, outcomes, higher, _sampler(name, proposal_seed))
    if number == 0:
        study.enqueue_trial(_categories(start))
    trial = study.ask(_distributions(space))
    shared = storage.get_study_system_attrs(storage.get_study_id_from_name("search"))
    attributes = {"trial": dict(study.trials[number].system_attrs), "study": dict(shared)}
    return {key: _rounded(value, space[key]) for key, value in trial.params.items()}, attributes


def write_journal(
    path: Path, studies: Mapping[str, tuple[Space, Sequence[Outcome]]], higher: bool
) -> None:
    """Write the file for `optuna-dashboard` atomically, with an Optuna study for each name.

    `higher` is True if larger scores are better.
    """
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    lock = JournalFileOpenLock(str(temporary))
    storage = JournalStorage(JournalFileBackend(str(temporary), lock_obj=lock))
    for name, (space, outcomes) in studies.items():
        _study(storage, name, space, outcomes, higher, optuna.samplers.RandomSampler())
    os.replace(temporary, path)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    kind = samplers()[name]
    if issubclass(kind, optuna.samplers.BaseGASampler):
        return kind(seed=seed, population_size=POPULATION)  # pyright: ignore[reportCallIssue]
    return kind(seed=seed)  # pyright: ignore[reportCallIssue]


def _study(
    storage: BaseStorage,
    name: str,
    space: Space,
    outcomes: Sequence[Outcome],
    higher: bool,
    sampler: optuna.samplers.BaseSampler,
) -> optuna.Study:
    direction = "maximize" if higher else "minimize"
    study = optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, direction=direction
    )
    for outcome in outcomes:
        study.add_trial(_trial(outcome, space))
    shared = outcomes[-1].proposal.attributes.get("study", {}) if outcomes else {}
    for key, value in shared.items():
        storage.set_study_system_attr(storage.get_study_id_from_name(name), key, value)
    return study


def _trial(outcome: Outcome, space: Space) -> FrozenTrial:
    """Return the outcome as a trial of Optuna.

    The state is COMPLETE with the score, PRUNED with the scores by epoch, RUNNING or FAIL. It is
    FAIL, too, if the score of a completed trial is nan, which Optuna does not accept.
    """
    state = STATES.get(outcome.status, TrialState.FAIL)
    if state == TrialState.COMPLETE and math.isnan(outcome.score):
        state = TrialState.FAIL
    return optuna.trial.create_trial(
        state=state,
        value=outcome.score if state == TrialState.COMPLETE else None,
        params=_categories(outcome.proposal.parameters),
        distributions=_distributions(space),
        system_attrs=dict(outcome.proposal.attributes.get("trial", {})),
        user_attrs={"trial_key": outcome.proposal.trial_key},
        intermediate_values=dict(outcome.values),
    )


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {name: _distribution(domain) for name, domain in space.items()}


def _distribution(domain: Range | Choice) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution([spelled(value) for value in domain.values])
    kind = IntDistribution if domain.integer else FloatDistribution
    return kind(domain.low, domain.high, log=domain.log)  # pyright: ignore[reportArgumentType]


def _categories(parameters: Parameters) -> dict[str, Any]:
    """Return parameters with texts in place of tuples, which Optuna does not store."""
    return {name: spelled(value) for name, value in parameters.items()}


def _rounded(value: Any, domain: Range | Choice) -> Any:
    """Round a real number to `DIGITS` within its range. Return any other value of the domain."""
    if isinstance(domain, Choice):
        tuples = [known for known in domain.values if isinstance(known, tuple)]
        return next((known for known in tuples if spelled(known) == value), value)
    if domain.integer:
        return value
    return float(min(max(float(f"{value:.{DIGITS}g}"), domain.low), domain.high))
