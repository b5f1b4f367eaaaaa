"""The networks of a probe that a command selects, and the errors in the command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from precond.counts import counted
from precond.hyperparameters import HyperparameterError, nearest
from precond.layers import find_layers
from studies.harness.design.arms import Arm, Trial
from studies.harness.design.options import SMOKE_SEEDS, Options
from studies.harness.kinds.artefact import Plan, Work
from studies.harness.kinds.planning import plan_workloads, recipe
from studies.harness.kinds.probe import folder
from studies.harness.kinds.probe.probe import Probe
from studies.harness.kinds.records import Stored, stored_plans
from studies.harness.kinds.selection import with_selection
from studies.harness.tracking.view import View
from studies.harness.tracking.views import ReportView
from trainables.config import TrialConfig
from trainables.workloads import RECIPE_SETTINGS, resolve, settable, skeleton, workload


@dataclass(frozen=True, kw_only=True)
class ProbePlan(Plan):
    """A probe on one workload. `trials` has a trial for each network."""

    artefact: Probe


def plans(probe: Probe, options: Options) -> list[ProbePlan]:
    """Return the plans of a probe (see `Artefact.plan`)."""
    known = {*_parameters(probe), *settable(probe.optimizer)}
    errors = [
        f"--set {name}: unknown.{nearest(name, sorted(known))}"
        for name in options.settings
        if name not in known
    ]

    def selected(workload: str) -> ProbePlan:
        plan_of = partial(_plan, probe, workload)
        return with_selection(plan_of(options), plan_of, _identity)

    return plan_workloads(probe, options, selected, errors)


def _parameters(probe: Probe) -> set[str]:
    return {field.name for field in dataclasses.fields(probe.measurement)}


def _plan(probe: Probe, workload: str, options: Options) -> ProbePlan:
    parameters, settings = _parameters(probe), options.settings
    changes = {name: value for name, value in settings.items() if name in parameters}
    probe = replace(probe, measurement=replace(probe.measurement, **changes))
    hyperparameters = settable(probe.optimizer) - parameters - {*RECIPE_SETTINGS}
    overrides = {name: value for name, value in settings.items() if name in hyperparameters}
    seeds = options.seeds or SMOKE_SEEDS if options.smoke else options.seeds
    networks = probe.trials(workload, seeds, recipe(options), overrides)
    return ProbePlan(artefact=probe, workload=workload, options=options, trials=networks)


def _identity(plan: ProbePlan) -> str:
    return folder.key(plan.artefact, plan.trials[0].config.with_seed(0))


def reported(plan: ProbePlan) -> ProbePlan:
    """Return a plan with the networks that were measured with other seeds."""
    arm, config = plan.trials[0]
    seeds = {trial.config.seed for trial in plan.trials}
    measured = {
        seed
        for seed in folder.measured_seeds(plan.root) - seeds
        if folder.status_file(plan.artefact, config.with_seed(seed), plan.root).exists()
    }
    trials = [Trial(arm, config.with_seed(seed)) for seed in sorted(seeds | measured)]
    return replace(plan, trials=trials)


def results(plan: ProbePlan) -> list[str]:
    """Return the networks with a result."""
    files = [folder.status_file(plan.artefact, config, plan.root) for _, config in plan.trials]
    return [str(file.relative_to(plan.root)) for file in files if file.exists()]


def trials(
    probe: Probe,
    name: str,
    seeds: Sequence[int] | None,
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> list[Trial]:
    """Return a trial for each network (see `Probe.trials`)."""
    errors = probe.measurement.problems()
    try:
        config = resolve(
            name, probe.optimizer, overrides, {**probe.published.get(name, {}), **recipe}
        )
        errors = errors or _model_errors(probe, config)
    except HyperparameterError as error:
        raise HyperparameterError("\n".join([*errors, *str(error).splitlines()])) from error
    if errors:
        raise HyperparameterError("\n".join(errors))
    arm = Arm(optimizer=probe.optimizer, overrides=overrides)
    seeds = range(probe.seeds) if seeds is None else seeds
    return [Trial(arm, config.with_seed(seed)) for seed in seeds]


def _model_errors(probe: Probe, config: TrialConfig) -> list[str]:
    """Return a line for each reason why the probe cannot measure the workload's model."""
    selected = workload(config.workload)
    model = skeleton(selected.model, selected.fit(config.settings))
    if config.compile:
        return ["compile = True: a probe cannot measure a compiled model; remove this option"]
    if not find_layers(model)[0]:
        return [f'workload = "{selected.name}": its model has no Linear or Conv2d layer to measure']
    return probe.measurement.code.model_problems(probe.measurement, model)


def missing(plan: ProbePlan) -> Work:
    """Return the networks without a result; none with `--report-only`."""
    results = folder.results(plan.artefact, plan.trials, plan.root)
    unmeasured = [trial for trial in plan.trials if trial.config.seed not in results]
    todo = [] if plan.options.report_only else unmeasured
    epochs = plan.trials[0].config.epochs
    summary = (
        f"{counted(len(plan.trials), 'network')} ({plan.artefact.optimizer}, "
        f"{counted(epochs, 'epoch')}): "
        f"{len(results)} done, {len(unmeasured)} to go"
    )
    records = [
        {"key": folder.key(plan.artefact, trial.config), "config": trial.config.to_dict()}
        for trial in todo
    ]
    return Work(count=len(todo), summary=summary, records=records, trials=todo)


def stored(probe: Probe, root: Path) -> Stored:
    """Return the plans of the stored reports, and of other workloads with a result.

    Of the other workloads, only the default workload and those of the paper are considered.
    """
    described = stored_plans(probe, root)
    workloads = {plan.workload for plan in described.plans if not plan.selection}
    for name in sorted({probe.workload, *probe.published} - workloads):
        plan = _plan(probe, name, Options(out=root))
        if results(plan):
            described.plans.append(reported(plan))
    return described


def view(plan: ProbePlan) -> View:
    """Return the description of the MLflow run of the report.

    The measurement, the workload and the recipe identify the run.
    """
    probe, config = plan.artefact, plan.trials[0].config
    params = {**vars(probe.measurement), "optimizer": config.optimizer, "epochs": config.epochs}
    params |= {
        "batch_size": config.batch_size,
        "schedule": config.schedule,
        **config.hyperparameters,
    }
    key = folder.key(probe, config.with_seed(0))
    return ReportView(
        facts=probe,
        workload=plan.workload,
        key=key,
        kind="probe",
        params=params,
        options=plan.options,
        selection=plan.selection,
    )


def state(probe: Probe, root: Path) -> str:
    """Return the numbers of measured and planned networks as `2/3`."""
    networks = probe.trials()
    return f"{len(folder.results(probe, networks, root))}/{len(networks)}"
