"""Run a command from its plan to its exit code: plan, check, lock, execute, track, report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from precond.hyperparameters import HyperparameterError
from studies.harness.command import lock, reports, screen
from studies.harness.command.flags import FLAGS
from studies.harness.command.interrupts import Interrupts
from studies.harness.command.naming import key_problem
from studies.harness.command.problems import activity, guarded
from studies.harness.command.screen import refuse, stopped
from studies.harness.design.arms import Trial
from studies.harness.design.ending import COMPLETE, ENVIRONMENT, SOME_FAILED, Stopped
from studies.harness.design.options import Options
from studies.harness.kinds.artefact import Artefact, Driver, Plan, Work
from trainables.store import StoreError
from trainables.workloads import prepare_data

_OPTIONS = {str(flag.name): flag.opts[0] for flag in FLAGS}
FREE_BYTES = 50 * 2**20  # required free disk space, for checkpoints, tables and MLflow's database


class Refused(HyperparameterError):
    """The work cannot start.

    Args:
        problems: One line for each error.
    """

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


def run_command(artefacts: Sequence[Artefact], options: Options, errors: Sequence[str] = ()) -> int:
    """Plan, check, execute and report one or more artefacts with one driver.

    Args:
        artefacts: The artefacts. A trial that several of them need is trained once.
        options: The command line.
        errors: Errors that the parser has found in the command line.

    Returns:
        The exit code.
    """
    return guarded(lambda: _plan_and_run(artefacts, options, errors))


def _plan_and_run(artefacts: Sequence[Artefact], options: Options, errors: Sequence[str]) -> int:
    # With --json, standard output contains the results only.
    console = screen.terminal(stderr=options.as_json)
    with activity(f"read {options.root}"), screen.redirected(options.as_json):
        plans, work, problems = plan_all(artefacts, options)
    if errors or problems:
        return refuse([*errors, *problems])
    return _run(plans, work, options, console)


def _run(plans: Sequence[Plan], work: Sequence[Work], options: Options, console: Console) -> int:
    if options.dry_run:
        print_plans(plans, work, options, console)
        return COMPLETE
    failed = execute(plans, work, options, console)
    commands = screen.compare(options.root, options.uri)
    commands += [step for plan in plans[:1] for step in plan.artefact.next_steps(plan)]
    screen.print_next_steps(commands, console)
    return SOME_FAILED if failed else COMPLETE


def execute(
    plans: Sequence[Plan],
    work: Sequence[Work],
    options: Options,
    console: Console,
    *,
    on_lost: Callable[[str], int] | None = None,
    print_results: bool = True,
) -> bool:
    """Do the missing work of plans and write their reports, also if the work ends early.

    Args:
        plans: The plans.
        work: The missing work of each plan.
        options: The options of the command.
        console: The terminal that shows the progress.
        on_lost: See `Driver`; by default, print the command that resumes the work.
        print_results: False if the caller shows the results.

    Returns:
        True if trials failed.

    Raises:
        Refused: The data or the cluster cannot be used; nothing was started or written.
        Stopped: The work ended early.
        StoreError: The output folder is in use, or its disk is full.
        ActivityError: A file cannot be read or written.
    """
    with activity(f"read the data in {options.data_dir}"):
        problems = _unready(work, options, console)
    if problems:
        raise Refused(problems)
    for plan, part in zip(plans, work, strict=True):
        console.print(plan.headline)
        console.print(part.summary, highlight=False)
    failed, interrupts = False, Interrupts()
    with _locked(options.root) as generation:
        results = reports.Reports(plans, options, console, print_results=print_results)
        try:
            # Compute the missing work again, because another driver may have done some of it before
            # this one acquired the lock.
            if any(plan.artefact.missing(plan).count for plan in plans):
                results.start_tracking()
                driver = Driver(
                    options=options,
                    generation=generation,
                    console=console,
                    on_lost=on_lost or _lost,
                )
                with activity("train the trials"), interrupts:
                    _execute(plans, driver)
        finally:
            if not interrupts.repeated:
                failed = _write(results)
    return failed


def _write(results: reports.Reports) -> bool:
    """Write the reports; return True if trials failed."""
    try:
        with activity("write the report"):
            return results.write()
    except HyperparameterError as error:  # the command was valid, and trials may have been trained
        raise StoreError(f"cannot write the report ({error})") from error


@contextmanager
def _locked(root: Path) -> Iterator[int]:
    """Lock the output folder, check its disk, and yield the generation of this driver."""
    with ExitStack() as stack:
        with activity(f"write to {root}"):
            generation = stack.enter_context(lock.exclusive(root))
            check_disk_space(root)
        yield generation


# ---------------------------------------------------------------------- checks before the start


def plan_all(
    artefacts: Sequence[Artefact], options: Options
) -> tuple[list[Plan], list[Work], list[str]]:
    """Return the plans of all artefacts, each plan's missing work, and a line for each error."""
    plans: list[Plan] = []
    work: list[Work] = []
    errors: list[str] = []
    if options.unresolved:
        return plans, work, errors
    for artefact in artefacts:
        errors += [
            f"{_OPTIONS[name]}: not available for {artefact.name}, {reason}"
            for name, reason in artefact.REFUSED.items()
            if name in options.given
        ]
        try:
            planned = artefact.plan(options)
            # This reads the trial folders, so a folder of a newer version raises before any write.
            work += [plan.artefact.missing(plan) for plan in planned]
            plans += planned
        except (HyperparameterError, StoreError) as error:
            errors += str(error).splitlines()
    return plans, work, errors + _rerun_problems(plans, options)


def _rerun_problems(plans: Sequence[Plan], options: Options) -> list[str]:
    """Return a line for each `--rerun` that does not name exactly one planned trial."""
    if not options.rerun:
        return []
    names = {
        trial.config.trial_key: f"{trial.arm.label} seed {trial.config.seed}"
        for plan in plans
        for trial in plan.trials
    }
    errors = [key_problem(key, names, names.__getitem__, "of the plan") for key in options.rerun]
    return [f"--rerun = {line}" for line in errors if line]


def print_plans(
    plans: Sequence[Plan], work: Sequence[Work], options: Options, console: Console
) -> None:
    """Print the plans; with --json, print their records instead, one line of JSON each."""
    if options.as_json:
        for record in dict.fromkeys(json.dumps(record) for part in work for record in part.records):
            print(record)
        return
    for plan, part in zip(plans, work, strict=True):
        console.print(plan.headline)
        for line in (part.summary, *part.details):
            console.print(line, highlight=False, soft_wrap=line.startswith(" "))
    trials = [trial for part in work for trial in part.trials]
    if trials:
        console.print(_estimate(trials, options), highlight=False)
    console.print("Nothing was started.")


def _estimate(trials: Sequence[Trial], options: Options) -> str:
    """Return the estimate of the training, or the error of an optimizer or model in its steps."""
    from studies.harness.command.estimate import estimate
    from studies.harness.command.limited import MeasurementError

    try:
        return str(estimate(trials, options))
    except MeasurementError as error:  # of the code of a plugin; the trials will fail, too
        return f"The training time is not known, because a step failed: {error}."


def _unready(work: Sequence[Work], options: Options, console: Console) -> list[str]:
    """Return a line for each problem with the data, with the cluster, or with Ray's sockets."""
    names = {trial.config.workload for part in work for trial in part.trials}
    problems = prepare_data(
        names, options.data_dir, download=options.download, verify=options.verify_data
    )
    if problems:
        return problems
    if not any(part.count and part.on_ray for part in work):
        return []
    if not options.address:
        from studies.harness.cluster.sockets import socket_problem

        return [problem] if (problem := socket_problem()) else []
    from studies.harness.cluster import inspect

    banner, problems = inspect.inspect(options.address, options)
    if banner:  # empty if the cluster could not be inspected
        console.print(banner, highlight=False)
    return problems


def check_disk_space(root: Path) -> None:
    """Raise `OSError` if the folder cannot be written, or `StoreError` if the disk is full."""
    probe = root / ".writable"
    probe.write_bytes(b"?")
    probe.unlink()
    free = shutil.disk_usage(root).free
    if free < FREE_BYTES:
        raise StoreError(
            f"disk full: {root} has {free / 2**20:.1f} MB of free space, and at least "
            f"{FREE_BYTES / 2**20:.0f} MB are required"
        )


# ---------------------------------------------------------------------- execution


def _execute(plans: Sequence[Plan], driver: Driver) -> None:
    """Execute the plans, those of one kind together; raise `Stopped` if the work ends early."""
    for kind in dict.fromkeys(type(plan.artefact) for plan in plans):
        try:
            kind.execute([plan for plan in plans if type(plan.artefact) is kind], driver)
        except StoreError as problem:
            raise Stopped(ENVIRONMENT, f"error: {problem}") from problem


def _lost(problem: str) -> int:
    """Print that the Ray cluster was lost; return the exit code for the process."""
    return stopped(ENVIRONMENT, f"error: {problem}")
