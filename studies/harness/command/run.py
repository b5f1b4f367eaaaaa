"""A command from its plan to its exit code: check, lock, train what is missing, track, report."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from precond import HyperparameterError
from studies.harness.command import screen
from studies.harness.command.options import Options
from studies.harness.evidence import ledger
from studies.harness.evidence.provenance import provenance
from studies.harness.kinds.study.dry_run import headline, print_plan, summary
from studies.harness.kinds.study.plan import Plan, plans
from studies.harness.kinds.study.study import Study, Trial
from studies.harness.tracking.background import Tracking
from trainables import plugins
from trainables.data import DataError
from trainables.fingerprint import fingerprint
from trainables.ready import ready
from trainables.store import FAILED, StoreError, TrialStore, trial_folder

if TYPE_CHECKING:
    from studies.harness.cluster.execute import Cluster

COMPLETE, SOME_FAILED, BAD_COMMAND, BUDGET, ENVIRONMENT, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143
STOPS = {
    "budget": (BUDGET, "the time budget is used up"),
    "SIGINT": (INTERRUPTED, "interrupted"),
    "SIGTERM": (TERMINATED, "stopped by SIGTERM"),
}
FREE_BYTES = 50 * 2**20  # less room than this for checkpoints, tables and MLflow, and nothing is started


class Stopped(Exception):
    """The run ended before its trials did; the same command goes on."""

    def __init__(self, code: int, why: str):
        super().__init__(why)
        self.code = code


def run(studies: Sequence[Study], options: Options, wrong: Sequence[str] = ()) -> int:
    """Plan, check, train and report one or more studies with one driver.

    Args:
        studies: Trials that several of them need are trained once.
        options: The command line.
        wrong: What is wrong with it already.

    Returns:
        The exit code.
    """
    # With --json only the results go to standard output.
    console = screen.terminal(stderr=options.as_json)
    planned, problems = _plans(studies, options)
    if wrong or problems:
        return refuse([*wrong, *problems])
    trials = list({t.config.trial_key: t for plan in planned for t in plan.trials}.values())
    return guarded(lambda: _run(planned, trials, options, console), options.root)


def guarded(work: Callable[[], int], root: Path) -> int:
    """Do a command's work; returns its exit code, or that of whatever ends it before its end."""
    try:
        with _terminable():
            return work()
    except KeyboardInterrupt:
        return stopped(INTERRUPTED, "interrupted")
    except Stopped as end:
        return stopped(end.code, str(end))
    except (StoreError, DataError) as problem:
        return environment(str(problem))
    except OSError as problem:
        return environment(f"cannot write to {root} ({problem.strerror or problem})")


def refuse(problems: Sequence[str]) -> int:
    """Say what is wrong with a command, one line each; returns the exit code."""
    for line in dict.fromkeys(problems):
        hidden = re.sub("//.*@", "//***@", line, flags=re.DOTALL)  # in an address this may be a password
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in hidden)  # a value may hold a newline
        print(f"error: {shown}", file=sys.stderr)
    return BAD_COMMAND


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops the run as SIGINT does, whatever it is at; while trials run, `execute` has a handler of its own."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(*STOPS["SIGTERM"])

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stopped(code: int, why: str) -> int:
    """Say that a command ended before its work did, and how to go on; returns the exit code."""
    print(f"{why}; nothing committed was lost. The same command goes on:", file=sys.stderr)
    print(f"  {shlex.join(['python', *sys.argv])}", file=sys.stderr)
    return code


def environment(problem: str) -> int:
    """Say what is wrong with disk, lock, data or Ray; returns the exit code."""
    print(f"error: {problem}", file=sys.stderr)
    return ENVIRONMENT


def _plans(studies: Sequence[Study], options: Options) -> tuple[list[Plan], list[str]]:
    """Every study's plan, and everything that is wrong with any of them."""
    planned: list[Plan] = []
    problems: list[str] = []
    for study in studies:
        try:
            planned += plans(study, options)
        except HyperparameterError as error:
            problems += str(error).splitlines()
    known = {trial.config.trial_key for plan in planned for trial in plan.trials}
    for key in options.rerun:
        if len(key) < 6 or not any(name.startswith(key) for name in known):
            problems.append(f"--rerun = {key}: no trial of this plan has a key that starts so (at least 6 digits)")
    try:  # a folder of a newer version is refused before anything is written
        for each in planned:
            ledger.missing(each.trials, options.root)
    except StoreError as problem:
        problems.append(str(problem))
    return planned, problems


def _run(plans: Sequence[Plan], trials: Sequence[Trial], options: Options, console: Console) -> int:
    missing = [] if options.report_only else _to_train(trials, options)
    if options.dry_run:
        print_plan(plans, missing, options, console)
        return COMPLETE
    names = {trial.config.workload for trial in missing}
    if problems := ready(names, options.data_dir, download=options.download, verify=options.verify_data):
        return refuse(problems)
    if missing and options.address and (problems := unfit_cluster(options.address, options, console)):
        return refuse(problems)
    for each in plans:
        console.print(headline(each))
    console.print(summary(trials, missing), highlight=False)
    from studies.harness.command import lock

    with lock.exclusive(options.root) as generation:
        check_room(options.root)
        tracking = Tracking(plans, options, console)
        try:
            # Again, if any: another driver may have trained them since, and an ended trial is not opened twice.
            if missing and (missing := _to_train(trials, options)):
                _train(missing, generation, options, console)
        finally:
            paths, statuses = _report(plans, options, console)
            tracking.finish(paths)
    screen.say_next([*screen.compare(options.root, tracking.uri, tracking.shown_uri), *screen.further(trials)], console)
    return SOME_FAILED if FAILED in statuses else COMPLETE


# ---------------------------------------------------------------------- before training


def _to_train(trials: Sequence[Trial], options: Options) -> list[Trial]:
    """What has no result yet, and what the command wants again."""
    missing = ledger.missing(trials, options.root, options.retry)
    known = {trial.config.trial_key for trial in missing}
    again = [t for t in trials if t.config.trial_key.startswith(options.rerun)] if options.rerun else []
    return missing + [trial for trial in again if trial.config.trial_key not in known]


def unfit_cluster(address: str, options: Options, console: Console) -> list[str]:
    """What is wrong with the cluster that the command names, a line each; what it is goes to the screen."""
    from studies.harness.cluster import inspect as cluster

    gpus, processes = options.gpus_per_trial, options.workers_per_trial
    needs = cluster.Needs(root=options.root, data_dir=options.data_dir, gpus=gpus, processes=processes)
    banner, problems = cluster.inspect(address, needs)
    console.print(banner, highlight=False)
    return problems


def check_room(root: Path) -> None:
    """Raises `OSError` where the folder cannot be written, `StoreError` where the disk is full."""
    probe = root / ".writable"
    probe.write_bytes(b"?")
    probe.unlink()
    free = shutil.disk_usage(root).free
    if free < FREE_BYTES:
        raise StoreError(f"disk full: {root} has {free / 2**20:.1f} MB free, need {FREE_BYTES / 2**20:.0f} MB")


# ---------------------------------------------------------------------- training


def _train(missing: Sequence[Trial], generation: int, options: Options, console: Console) -> None:
    """Train; raises `Stopped` when trials are left.

    The report is made whatever happens here, from what has been committed.
    """
    from studies.harness.cluster import execute
    from studies.harness.cluster.progress import StudyProgress

    root = options.root
    cluster, worker = workers(options, generation)
    for trial in missing:
        store = TrialStore(root, trial.config)
        if options.rerun and trial.config.trial_key.startswith(options.rerun):
            shutil.rmtree(trial_folder(root, trial.config.trial_key), ignore_errors=True)
        store.create()
        store.reopen()
    with StudyProgress(missing, console) as progress:
        try:
            ended = execute.train(missing, root, cluster, worker, progress, on_lost=lost)
        except StoreError as problem:
            raise Stopped(ENVIRONMENT, f"error: {problem}") from problem
    if ended in STOPS and ledger.missing(missing, root):
        raise Stopped(*STOPS[ended])


def lost(reason: str) -> int:
    """Say that the cluster is lost; returns the exit code."""
    return stopped(ENVIRONMENT, f"error: {reason}")


def workers(options: Options, generation: int) -> tuple[Cluster, dict[str, Any]]:
    """Where a command trains, and what its workers get; what they need is in the output folder then."""
    from studies.harness.cluster import execute

    if options.plugin is not None:
        plugins.keep(options.plugin, options.root)
    cluster = execute.Cluster(
        address=options.address,
        max_concurrent=options.max_concurrent,
        gpus_per_trial=options.gpus_per_trial,
        time_budget=options.time_budget,
        workers_per_trial=options.workers_per_trial,
    )
    worker = {name: getattr(options, name) for name in ("commit_every", "diagnostics")}
    worker |= {"generation": generation, "provenance": provenance(), "data_dir": str(options.data_dir.absolute())}
    worker["fingerprint"] = fingerprint() if options.address else None  # one machine has one code
    return cluster, worker


# ---------------------------------------------------------------------- afterwards


def _report(plans: Sequence[Plan], options: Options, console: Console) -> tuple[list[list[Path]], set[str]]:
    """Every study's report, and its table on the screen; returns the files of each, and all trials' statuses."""
    from studies.harness.evidence import reach
    from studies.harness.kinds.study import report
    from studies.harness.kinds.target import report as reach_report
    from studies.harness.report.figures import curves as curve_figures
    from studies.harness.report.figures import levels as level_figures
    from studies.harness.report.figures import style as figures
    from studies.harness.report.figures import targets as target_figures

    written, statuses = [], set[str]()
    for each in plans:
        frame = ledger.frame(each.trials, options.root)
        statuses |= set(frame["status"])
        folder = ledger.report_folder(options.root, each.study.name, each.workload)
        by_epoch = ledger.frame(each.trials, options.root, per="epoch")
        reached = reach.read(each.study, each.trials, frame, by_epoch, options.root)
        drawn = [
            *level_figures.draw(each.study, frame, folder),
            *curve_figures.draw(each.study, by_epoch, folder),
            *target_figures.draw(reached, folder),
            *figures.draw_diagnostics(by_epoch, folder),
            *(path for one in each.study.further for path in one.draw(each.trials, options.root, folder)),
        ]
        added = reach_report.added(each.study, each.trials, reached, options.root)
        made = report.write(each.study, each.trials, frame, folder, drawn, added=added)
        written.append([*made.paths, *drawn])
        console.print(report.console_table(each.study, frame))
        screen.say(made.found, made.paths, console)
        if options.as_json:
            print(report.to_json(each.study, frame))
    return written, statuses
