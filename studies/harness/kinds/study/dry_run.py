"""A plan in words: what it has, what is done, and what the rest takes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from studies.harness.command import estimate
from studies.harness.command.options import Options
from studies.harness.kinds.study.plan import Plan
from studies.harness.kinds.study.study import Trial


def headline(plan: Plan) -> str:
    """What it is, where it is from, what is trained."""
    return f"[bold]{plan.study.title}[/] · {plan.study.citation} · {plan.workload}"


def summary(trials: Sequence[Trial], missing: Sequence[Trial]) -> str:
    """`50 trials (10 arms x 5 seeds): 20 done, 30 to go`."""
    seeds = len({trial.config.seed for trial in trials})
    arms = len({trial.config.group_key for trial in trials})
    grid = f"{arms} arms x {seeds} seeds" if arms * seeds == len(trials) else f"{arms} arms, up to {seeds} seeds"
    return f"{len(trials)} trials ({grid}): {len(trials) - len(missing)} done, {len(missing)} to go"


def print_plan(plans: Sequence[Plan], missing: Sequence[Trial], options: Options, console: Console) -> None:
    """The plan for people; with --json the trials for `python -m trainables`, a line each."""
    to_go = {trial.config.trial_key for trial in missing}
    if options.as_json:
        for trial in missing:
            print(json.dumps({"key": trial.config.trial_key, "arm": trial.arm.label, "config": trial.config.to_dict()}))
        return
    for each in plans:
        console.print(headline(each))
        console.print(summary(each.trials, [t for t in each.trials if t.config.trial_key in to_go]), highlight=False)
        arms: dict[str, list[Trial]] = {}
        for trial in each.trials:
            arms.setdefault(trial.arm.label, []).append(trial)
        width = max(map(len, arms))
        for label, members in arms.items():
            count = sum(trial.config.trial_key in to_go for trial in members)
            seeds = ",".join(str(trial.config.seed) for trial in members)
            line = f"  {label:{width}}  seeds {seeds}  {members[0].config.epochs} epochs  {count} to train"
            console.print(line, highlight=False, soft_wrap=True)
        metric = each.study.figure.metric
        console.print(estimate.smallest_difference(each.trials, options.root, metric), highlight=False)
    if missing:
        console.print(str(estimate.estimate(missing, options)), highlight=False)
    console.print("Nothing was started (--dry-run).")
