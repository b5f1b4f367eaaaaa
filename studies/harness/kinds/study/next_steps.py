"""The commands that a user may run after a study's report."""

from __future__ import annotations

from studies.harness.evidence.metrics import count
from studies.harness.evidence.status import FAILED, missing, progress
from studies.harness.kinds.study.plan import StudyPlan, reported
from trainables.store import trial_folder


def next_steps(plan: StudyPlan) -> list[tuple[str, str]]:
    """Return commands and their effects (see `Study.next_steps`)."""
    trials = reported(plan).trials
    folders = [trial_folder(plan.root, trial.config.trial_key) for trial in trials]
    steps = []
    if any(progress(folder)["status"] == FAILED for folder in folders):
        steps.append(("the same command with --retry failed", "trains the failed trials again"))
    unfinished = missing(trials, plan.root)
    if unfinished:
        command = _resume(plan, {trial.config.seed for trial in unfinished})
        return [*steps, (command, f"trains the {count(len(unfinished), 'unfinished trial')}")]
    seeds = {trial.config.seed for trial in trials}
    if seeds != set(range(len(seeds))):
        return steps
    arms = {trial.config.group_key for trial in trials}
    if len(trials) < len(seeds) * len(arms):
        effect = "trains all of these seeds for each arm"
        return [*steps, (f"the same command with --seeds {len(seeds)}", effect)]
    command = f"the same command with --seeds {len(seeds) + 1}"
    return [*steps, (command, "trains one more seed of each arm")]


def _resume(plan: StudyPlan, unfinished: set[int]) -> str:
    """Return the command that trains the unfinished trials with these seeds."""
    changes = [" without --report-only"] if plan.options.report_only else []
    if not unfinished <= {trial.config.seed for trial in plan.trials}:
        seeds = ",".join(map(str, sorted(unfinished)))
        changes.append(f" with --seeds {seeds}{'' if len(unfinished) > 1 else ','}")
    return "the same command" + " and".join(changes)
