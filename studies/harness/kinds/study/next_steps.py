"""The commands that a user may run after a study's report."""

from __future__ import annotations

from collections.abc import Sequence

from precond.counts import counted
from studies.harness.design.arms import Trial
from studies.harness.evidence.status import FAILED, missing, progress
from studies.harness.kinds.study.plan import StudyPlan, reported
from trainables.store import trial_folder


def next_steps(plan: StudyPlan) -> list[tuple[str, str]]:
    """Return commands and their effects (see `Study.next_steps`)."""
    trials = reported(plan).trials
    failed, unfinished, steps = [], missing(trials, plan.root), []
    for trial in trials:
        folder = trial_folder(plan.root, trial.config.trial_key)
        if progress(folder)["status"] == FAILED:
            failed.append(trial)
    if failed:
        command = _command(plan, failed, "with --retry failed")
        steps.append((command, "trains the failed trials again"))
    if unfinished:
        options = ["without --report-only"] if plan.options.report_only else []
        effect = f"trains the {counted(len(unfinished), 'unfinished trial')}"
        return [*steps, (_command(plan, unfinished, *options), effect)]
    seeds = {trial.config.seed for trial in trials}
    if seeds != set(range(len(seeds))):
        return steps
    arms = {trial.config.group_key for trial in trials}
    if len(trials) < len(seeds) * len(arms):
        effect = "trains all of these seeds for each arm"
        return [*steps, (f"the same command with --seeds {len(seeds)}", effect)]
    command = f"the same command with --seeds {len(seeds) + 1}"
    return [*steps, (command, "trains one more seed of each arm")]


def _command(plan: StudyPlan, trials: Sequence[Trial], *changes: str) -> str:
    """Return the command that trains trials whose seeds the plan may not contain."""
    seeds = sorted({trial.config.seed for trial in trials})
    if not {*seeds} <= {trial.config.seed for trial in plan.trials}:
        names = ",".join(map(str, seeds))
        changes = (*changes, f"with --seeds {names}{'' if len(seeds) > 1 else ','}")
    return " ".join(["the same command", " and ".join(changes)]).rstrip()
