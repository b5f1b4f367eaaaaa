"""Resolve the options of a judgement to its plan, and return the missing work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from precond.counts import counted
from precond.hyperparameters import HyperparameterError
from studies.harness.design.options import Options
from studies.harness.evidence import status
from studies.harness.kinds.artefact import Work
from studies.harness.kinds.judge import ledger, scales, sides, tuning
from studies.harness.kinds.judge.checks import check
from studies.harness.kinds.judge.judge import Judgement
from studies.harness.kinds.judge.judge_plan import JudgePlan
from studies.harness.kinds.judge.option_values import Values
from studies.harness.kinds.judge.results import results
from studies.harness.kinds.planning import recipe, workloads
from studies.harness.tracking.view import View
from studies.harness.tracking.views import TrialsView
from trainables.store import trial_folder

MAX_SEEDS, LARGEST_SEED = 1000, 2**32 - 1


def seeds_from(first: int) -> int:
    """Return the largest number of seeds of a judgement that begins with a seed."""
    return min(MAX_SEEDS, LARGEST_SEED - first + 1)


def plans(judgement: Judgement, options: Options) -> list[JudgePlan]:
    """Return the plan of a judgement; it contains all workloads (see `Artefact.plan`)."""
    values = Values(options.extra)
    names = workloads(judgement, options)
    candidates = [
        values.read(lambda text=text: sides.arm(text)) for text in sides.split(judgement.candidates)
    ]
    baseline = values.read(lambda: sides.arm(judgement.baseline))
    metric, margin = values.text("metric", "test/headline"), values.text("margin", "0")
    measured = [values.read(lambda name=name: scales.scale(metric, margin, name)) for name in names]
    combine = values.choice("combine", ("average", "product"))
    first = values.integer("first_seed", 0, 0, LARGEST_SEED)
    number = values.integer("max_seeds", 30, 2, MAX_SEEDS)
    if number > seeds_from(first):
        last = f"--first-seed = {first}: the last of {number} seeds must be at most {LARGEST_SEED}"
        values.errors.append(last)
    budget = values.integer("tune", 0, 2, 1000)
    target = values.number("target")
    if values.errors:
        raise HyperparameterError("\n".join(dict.fromkeys(values.errors)))
    fields: dict[str, Any] = {
        "workload": ",".join(names),
        "selection": f"{', '.join(arm.label for arm in candidates)} vs {baseline.label}",
        "options": options,
        "scales": measured,
        "candidates": candidates,
        "baseline": baseline,
        "seeds": range(first, first + number),
        "combine": combine,
        "target": target,
        "recipe": recipe(options),
    }
    plan = JudgePlan(artefact=judgement, tuning={}, record={}, **fields)
    check(plan, budget)
    if budget:
        trials = {
            name: {arm.label: tuning.trials(arm, budget, name, plan.recipe) for arm in plan.arms}
            for name in names
        }
        plan = replace(plan, tuning=trials)
    plan = with_trials(replace(plan, record=ledger.describe(plan, first, budget, margin)))
    _check_results(plan)
    return [plan]


def _check_results(plan: JudgePlan) -> None:
    """Raise `HyperparameterError` if the existing results already prevent any decision."""
    current = results(plan)
    is_open = len(current.inconclusive) == len(plan.candidates)
    if current.problem and is_open and not plan.options.report_only:
        raise HyperparameterError(current.problem)


def with_trials(plan: JudgePlan) -> JudgePlan:
    """Return the plan with the trials of the tuning and, once the sides are tuned, of all pairs."""
    known = plan.sides()
    return replace(
        plan, trials=[*plan.tuning_trials, *(plan.pairs(known, plan.seeds) if known else ())]
    )


# ---------------------------------------------------------------------- work


def missing(plan: JudgePlan) -> Work:
    """Return the trials that may be trained; none with `--report-only` or at the end."""
    current = results(plan)
    tuning_trials = plan.tuning_trials
    untuned = status.missing(tuning_trials, plan.root)
    done = current.done or plan.options.report_only
    todo = [] if done else [*untuned, *current.needed(len(plan.seeds))]
    names = f"{', '.join(plan.labels)} against {plan.baseline.label}"
    lines = [f"{names}: up to {counted(len(plan.seeds), 'paired seed')}, {current.pairs} done"]
    if plan.tuning:
        number = len(tuning_trials)
        lines.append(f"tuning: {counted(number, 'trial')}, {number - len(untuned)} done")
    records = [
        {"key": t.config.trial_key, "arm": t.arm.label, "config": t.config.to_dict()} for t in todo
    ]
    return Work(
        count=len(todo),
        summary="\n".join([*lines, ledger.sentence(current.attempts_before, plan)]),
        records=records,
        trials=todo,
        on_ray=True,
    )


def view(plan: JudgePlan) -> View:
    """Return the description of the MLflow runs of the trials, of each side and of the judgement."""
    return TrialsView(
        facts=plan.artefact,
        workload=plan.workload,
        options=plan.options,
        selection=plan.selection,
        metric=plan.scales[0].metric,
        trials=lambda: reported(plan).trials,
    )


def reported(plan: JudgePlan) -> JudgePlan:
    """Return the plan with the trials that have begun."""
    known = with_trials(plan)
    begun = [trial for trial in known.trials if status.has_begun(trial, plan.root)]
    return replace(known, trials=begun)


def inputs(plan: JudgePlan) -> list[Path]:
    """Return the trial folders and the files of the cost benchmark."""
    folders = [trial_folder(plan.root, trial.config.trial_key) for trial in plan.trials]
    return [*folders, *sorted(plan.root.glob("cost/*/*.json"))]
