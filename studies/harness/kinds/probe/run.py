"""A probe's command line: plan, train the networks that have no result yet, report. `main(PROBE)` ends its file."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import click
import torch
from rich.console import Console

from precond import HyperparameterError
from precond.hyperparameters import nearest
from studies.harness.cluster.progress import StudyProgress
from studies.harness.command import screen
from studies.harness.command.cli import EXIT_CODES, SETTINGS, leave
from studies.harness.command.options import FLAGS, Options, parse
from studies.harness.command.run import COMPLETE, check_room, guarded, refuse
from studies.harness.evidence.ledger import report_folder
from studies.harness.kinds.probe import report as probe_report
from studies.harness.kinds.probe.probe import Probe, Result
from studies.harness.kinds.study.plan import SMOKE_EPOCHS, SMOKE_SEEDS, SMOKE_WORKLOAD
from studies.harness.kinds.study.study import Trial
from trainables.ready import ready
from trainables.store import DIVERGED, StoreError
from trainables.train import score
from trainables.workloads import RECIPE_SETTINGS, settable

# The others select among arms, or are about Ray's workers and their checkpoints.
OFFERED = (
    "smoke", "dry_run", "report_only", "seeds", "workload", "epochs", "settings", "tracking_uri", "out", "data_dir",
    "download", "verify_data", "plugin", "as_json",
)  # fmt: skip
HELP = {"smoke": "Two networks, two epochs on digits, in OUT/smoke.", "settings": "A parameter of the probe, a "
        "hyperparameter or a setting of the recipe.", "dry_run": "Print the plan and stop."}  # fmt: skip


@dataclass(frozen=True)
class ProbePlan:
    """A probe, as the command line has set it, and a trial for each network."""

    probe: Probe
    trials: Sequence[Trial]

    @property
    def workload(self) -> str:
        """The trials' workload."""
        return self.trials[0].config.workload


def main(probe: Probe) -> NoReturn:
    """Run a probe's command line and exit with its code."""

    def execute(**raw: Any) -> int:
        return run(probe, *parse({**_absent(), **raw}))

    help_text = f"{probe.title} ({probe.citation}).\n\nClaim: {probe.claim}"
    leave(click.Command(probe.name, SETTINGS, execute, [*_flags()], help_text, EXIT_CODES))


def _flags() -> list[click.Option]:
    offered = [copy.copy(flag) for flag in FLAGS if flag.name in OFFERED]
    for flag in offered:
        flag.help = HELP.get(str(flag.name), flag.help)
    return offered


def _absent() -> dict[str, Any]:
    """What `parse` finds of the flags that a probe does not have."""
    return {str(flag.name): False if flag.is_flag else () if flag.multiple else None for flag in FLAGS}


def plan(probe: Probe, options: Options) -> ProbePlan:
    """The networks that a command names.

    Raises:
        HyperparameterError: One line for each thing that is wrong.
    """
    own = {field.name for field in dataclasses.fields(probe.measurement)}
    chosen = {name: value for name, value in options.settings.items() if name in own}
    probe = replace(probe, measurement=replace(probe.measurement, **chosen))
    known = {*own, *settable(probe.optimizer)}
    wrong = [f"--set {name}: unknown.{nearest(name, sorted(known))}" for name in options.settings if name not in known]
    recipe = {name: value for name, value in options.settings.items() if name in RECIPE_SETTINGS}
    if options.epochs is not None:
        recipe["epochs"] = options.epochs
    name, seeds = options.workload, options.seeds
    if options.smoke:
        name, seeds = SMOKE_WORKLOAD, seeds or SMOKE_SEEDS
        recipe.setdefault("epochs", SMOKE_EPOCHS)
    overrides = {key: value for key, value in options.settings.items() if key in known - own - {*RECIPE_SETTINGS}}
    trials: list[Trial] = []
    try:
        trials = probe.trials(name, seeds, recipe, overrides)
    except HyperparameterError as error:
        wrong += str(error).splitlines()
    if wrong:
        raise HyperparameterError("\n".join(wrong))
    return ProbePlan(probe, trials)


def run(probe: Probe, options: Options, wrong: Sequence[str] = ()) -> int:
    """Plan, check, train and report; returns the exit code."""
    console = screen.terminal(stderr=options.as_json)
    results: dict[int, Result] = {}
    try:
        planned = plan(probe, options)
        results = planned.probe.found(planned.trials, options.root)
    except HyperparameterError as error:
        said = {line.removeprefix("--") for line in wrong}
        return refuse([*wrong, *(line for line in str(error).splitlines() if line not in said)])
    except StoreError as error:
        return refuse([*wrong, str(error)])
    if wrong:
        return refuse(wrong)
    return guarded(lambda: _run(planned, results, options, console), options.root)


def _run(planned: ProbePlan, results: dict[int, Result], options: Options, console: Console) -> int:
    probe = planned.probe
    missing = [] if options.report_only else [t for t in planned.trials if t.config.seed not in results]
    console.print(f"[bold]{probe.title}[/] · {probe.citation} · {planned.workload}")
    summary = f"{len(planned.trials)} networks ({probe.optimizer}, {planned.trials[0].config.epochs} epochs): "
    console.print(f"{summary}{len(results)} done, {len(missing)} to go", highlight=False)
    if options.dry_run:
        console.print("Nothing was started (--dry-run).")
        return COMPLETE
    if problems := ready(
        {t.config.workload for t in missing}, options.data_dir, download=options.download, verify=options.verify_data
    ):
        return refuse(problems)
    from studies.harness.command import lock

    with lock.exclusive(options.root):
        check_room(options.root)
        try:
            if missing:
                _train(planned, missing, results, options.root, console)
        except torch.OutOfMemoryError as problem:
            raise StoreError(f"out of memory: {str(problem).partition(chr(10))[0]}") from problem
        finally:
            _report(planned, results, options, console)
    return COMPLETE


def _train(
    planned: ProbePlan, missing: Sequence[Trial], results: dict[int, Result], root: Path, console: Console
) -> None:
    """Train the networks one after another, and put what was seen into `results` by seed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with StudyProgress(missing, console) as progress:
        for trial in missing:
            key = trial.config.trial_key

            def told(epoch: int, metrics: Mapping[str, float], key: str = key) -> None:
                progress.epoch(key, epoch, score(metrics))

            result = planned.probe.run(trial.config, root, device, told)
            results[trial.config.seed] = result
            progress.finished(key, "completed", "")
            if result.status["status"] == DIVERGED:
                console.print(f"seed {trial.config.seed} diverged: {result.status['reason']}", highlight=False)


def _report(planned: ProbePlan, results: Mapping[int, Result], options: Options, console: Console) -> None:
    """Write the report and send it to MLflow; a server that fails costs a line, not the report."""
    folder = report_folder(options.root, planned.probe.name, planned.workload)
    paths, found, numbers = probe_report.write(planned.probe, planned.trials, results, folder)
    if options.as_json:
        print(
            json.dumps({"probe": planned.probe.name, "numbers": json.loads(numbers.to_json(orient="records") or "[]")})
        )
    screen.say(found, paths, console)
    if options.tracking_uri == "none" or numbers.empty:
        return
    from studies.harness.tracking import probes as probe_tracking

    try:
        metrics = planned.probe.measurement.metrics(numbers)
        uri = options.tracking_uri
        probe_tracking.send(planned.probe, planned.trials, metrics, paths, options.root, uri, smoke=options.smoke)
    except Exception as error:
        line = f"tracking failed, all results are in the folders: {type(error).__name__}: {error}"
        console.print(line.partition("\n")[0], style="yellow", markup=False, soft_wrap=True)
