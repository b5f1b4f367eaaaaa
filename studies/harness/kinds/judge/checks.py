"""The errors in the sides and in the metric of a judgement."""

from __future__ import annotations

from precond.hyperparameters import HyperparameterError
from studies.harness.evidence import costs
from studies.harness.evidence.metrics import SECONDS_TO_TARGET, on_workload
from studies.harness.kinds.judge import scales
from studies.harness.kinds.judge.judge_plan import JudgePlan


def check(plan: JudgePlan, budget: int) -> None:
    """Raise `HyperparameterError` with one line for each error in the sides and the target."""
    errors: list[str] = []
    labels = [arm.label for arm in plan.arms]
    errors += [
        f"{label}: named twice" for label in dict.fromkeys(labels) if labels.count(label) > 1
    ]
    for scale in plan.scales:
        errors += _invalid_sides(plan, scale.workload, budget)
    timed = any(scale.metric in scales.TIMES for scale in plan.scales)
    if timed and plan.target is None:
        headline = on_workload("test/headline", plan.scales[0].workload)
        errors.append(
            f"--metric = {plan.scales[0].metric}: requires --target, a value of {headline}"
        )
    if plan.target is not None and not timed:
        errors.append(
            f"--target = {plan.target:g}: only for the metrics {' and '.join(scales.TIMES)}"
        )
    if any(scale.metric == SECONDS_TO_TARGET for scale in plan.scales) and not errors:
        errors += _unmeasured(plan, budget)
    if errors:
        raise HyperparameterError("\n".join(dict.fromkeys(errors)))


def _invalid_sides(plan: JudgePlan, workload: str, budget: int) -> list[str]:
    """Return a line for each error in the sides on a workload, with the labels of these sides."""
    labels: dict[str, list[str]] = {}
    keys: dict[str, str] = {}
    errors: list[str] = []
    for arm in plan.arms:
        try:
            key = arm.resolve(workload, plan.recipe).group_key
        except HyperparameterError as error:
            for line in str(error).splitlines():
                labels.setdefault(line, []).append(arm.label)
            continue
        twin = keys.setdefault(key, arm.label)
        if twin != arm.label and not budget:
            errors.append(f"{arm.label} and {twin} are the same configuration on {workload}")
    lines = [
        line if len(names) == len(plan.arms) else f"{', '.join(names)}: {line}"
        for line, names in labels.items()
    ]
    return [*lines, *errors]


def _unmeasured(plan: JudgePlan, budget: int) -> list[str]:
    """Return a line for each workload on which no hardware has timed all sides."""
    if budget:
        return [
            f"--metric = {SECONDS_TO_TARGET}: not available with --tune, whose values are not timed"
        ]
    errors = []
    for workload, by_label in (plan.sides() or {}).items():
        measured = costs.read([*by_label.values()], plan.root)
        if not any(all(sides.values()) for sides in measured.machines.values()):
            commands = "; ".join(costs.commands(by_label.values()))
            errors.append(f"{workload}: no hardware has timed all sides; first run: {commands}")
    return errors
