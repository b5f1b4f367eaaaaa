"""A command from its plan to its exit code: check, lock, train what is missing, track, report."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from precond import HyperparameterError
from studies.harness import ledger
from studies.harness.options import Options
from studies.harness.plan import Plan, plan
from studies.harness.provenance import provenance
from studies.harness.study import Study, Trial
from trainables import plugins
from trainables.data import DataError
from trainables.fingerprint import fingerprint
from trainables.ready import ready
from trainables.store import FAILED, StoreError, TrialStore, trial_folder

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
    console = Console(stderr=options.as_json)
    plans, problems = _plans(studies, options)
    if wrong or problems:
        return refuse([*wrong, *problems])
    trials = list({t.config.trial_key: t for plan in plans for t in plan.trials}.values())
    try:
        return _run(plans, trials, options, console)
    except KeyboardInterrupt:
        return _stopped(INTERRUPTED, "interrupted")
    except Stopped as stopped:
        return _stopped(stopped.code, str(stopped))
    except (StoreError, DataError) as problem:
        return _environment(str(problem))
    except OSError as problem:
        return _environment(f"cannot write to {options.root} ({problem.strerror or problem})")


def refuse(problems: Sequence[str]) -> int:
    """Say what is wrong with a command, one line each; returns the exit code."""
    for line in dict.fromkeys(problems):
        print(f"error: {line}", file=sys.stderr)
    return BAD_COMMAND


def _stopped(code: int, why: str) -> int:
    print(f"{why}; nothing committed was lost. The same command goes on:", file=sys.stderr)
    print(f"  {shlex.join(['python', *sys.argv])}", file=sys.stderr)
    return code


def _environment(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return ENVIRONMENT


def _plans(studies: Sequence[Study], options: Options) -> tuple[list[Plan], list[str]]:
    """Every study's plan, and everything that is wrong with any of them."""
    plans, problems = [], []
    for study in studies:
        try:
            plans.append(plan(study, options))
        except HyperparameterError as error:
            problems += str(error).splitlines()
    known = {trial.config.trial_key for plan in plans for trial in plan.trials}
    for key in options.rerun:
        if len(key) < 6 or not any(name.startswith(key) for name in known):
            problems.append(f"--rerun = {key}: no trial of this plan has a key that starts so (at least 6 digits)")
    try:  # a folder of a newer version is refused before anything is written
        for each in plans:
            ledger.missing(each.trials, options.root)
    except StoreError as problem:
        problems.append(str(problem))
    return plans, problems


def _run(plans: Sequence[Plan], trials: Sequence[Trial], options: Options, console: Console) -> int:
    missing = [] if options.report_only else _to_train(trials, options)
    if options.dry_run:
        _print_plan(plans, missing, options, console)
        return COMPLETE
    names = {trial.config.workload for trial in missing}
    if problems := ready(names, options.data_dir, download=options.download, verify=options.verify_data):
        return refuse(problems)
    if missing and options.address and (problems := _unfit_cluster(options.address, options, console)):
        return refuse(problems)
    for each in plans:
        console.print(_headline(each))
    console.print(_summary(trials, missing), highlight=False)
    from studies.harness import lock

    with lock.exclusive(options.root) as generation:
        _check_room(options.root)
        tracking = _Tracking(plans, options, console)
        try:
            if missing:
                _train(missing, generation, options, console)
        finally:
            paths, statuses = _report(plans, options, console)
            tracking.finish(paths)
    _last_screen(paths, tracking, console)
    return SOME_FAILED if FAILED in statuses else COMPLETE


# ---------------------------------------------------------------------- before training


def _to_train(trials: Sequence[Trial], options: Options) -> list[Trial]:
    """What has no result yet, and what the command wants again."""
    missing = ledger.missing(trials, options.root, options.retry)
    known = {trial.config.trial_key for trial in missing}
    again = [t for t in trials if t.config.trial_key.startswith(options.rerun)] if options.rerun else []
    return missing + [trial for trial in again if trial.config.trial_key not in known]


def _unfit_cluster(address: str, options: Options, console: Console) -> list[str]:
    """What is wrong with the cluster that the command names, a line each; what it is goes to the screen."""
    from studies.harness import cluster

    gpus, processes = options.gpus_per_trial, options.workers_per_trial
    needs = cluster.Needs(root=options.root, data_dir=options.data_dir, gpus=gpus, processes=processes)
    banner, problems = cluster.inspect(address, needs)
    console.print(banner, highlight=False)
    return problems


def _headline(plan: Plan) -> str:
    return f"[bold]{plan.study.title}[/] · {plan.study.citation} · {plan.workload}"


def _summary(trials: Sequence[Trial], missing: Sequence[Trial]) -> str:
    seeds = len({trial.config.seed for trial in trials})
    arms = len({trial.config.group_key for trial in trials})
    done = len(trials) - len(missing)
    return f"{len(trials)} trials ({arms} arms x {seeds} seeds): {done} done, {len(missing)} to go"


def _print_plan(plans: Sequence[Plan], missing: Sequence[Trial], options: Options, console: Console) -> None:
    """The plan for people; with --json the trials for `python -m trainables`, a line each."""
    to_go = {trial.config.trial_key for trial in missing}
    if options.as_json:
        for trial in missing:
            print(json.dumps({"key": trial.config.trial_key, "arm": trial.arm.label, "config": trial.config.to_dict()}))
        return
    for each in plans:
        console.print(_headline(each))
        console.print(_summary(each.trials, [t for t in each.trials if t.config.trial_key in to_go]), highlight=False)
        arms: dict[str, list[Trial]] = {}
        for trial in each.trials:
            arms.setdefault(trial.arm.label, []).append(trial)
        for label, members in arms.items():
            count = sum(trial.config.trial_key in to_go for trial in members)
            seeds = ",".join(str(trial.config.seed) for trial in members)
            line = f"  {label:24} seeds {seeds:12} {members[0].config.epochs} epochs  {count} to train"
            console.print(line, highlight=False)
    console.print("Nothing was started (--dry-run).")


def _check_room(root: Path) -> None:
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
    from studies.harness import execute
    from studies.harness.progress import StudyProgress

    root = options.root
    if options.plugin is not None:
        plugins.keep(options.plugin, root)
    for trial in missing:
        store = TrialStore(root, trial.config)
        if options.rerun and trial.config.trial_key.startswith(options.rerun):
            shutil.rmtree(trial_folder(root, trial.config.trial_key), ignore_errors=True)
        store.create()
        store.reopen()
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
    with StudyProgress(missing, console) as progress:
        ended = execute.train(missing, root, cluster, worker, progress)
    if ended in STOPS and ledger.missing(missing, root):
        raise Stopped(*STOPS[ended])


class _Tracking:
    """MLflow beside the training: a thread that sends what the folders have, and one last time at the end."""

    def __init__(self, plans: Sequence[Plan], options: Options, console: Console):
        from studies.harness import tracking

        given, root = options.tracking_uri, options.root
        self.uri = None if given == "none" else given or tracking.default_uri(root)
        self.shown_uri = given or f"sqlite:///{root / 'mlflow.db'}"
        self._console = console
        self._syncs = [
            partial(tracking.sync, each.study, each.trials, root, self.uri, smoke=options.smoke) for each in plans
        ]
        self._thread = tracking.BackgroundSync(self._all, self._warn) if self.uri else None

    def finish(self, artifacts: Sequence[Sequence[Path]]) -> None:
        """Send the rest and the reports; a server that fails costs a line, not the report."""
        if self._thread is None:
            return
        self._thread.stop()
        try:
            for sync, paths in zip(self._syncs, artifacts, strict=True):
                sync(artifacts=paths)
        except Exception as error:
            self._warn(f"tracking failed, all results are in the folders: {type(error).__name__}: {error}")

    def _all(self) -> None:
        for sync in self._syncs:
            sync()

    def _warn(self, message: str) -> None:
        self._console.print(message.partition("\n")[0], style="yellow", markup=False, soft_wrap=True)


# ---------------------------------------------------------------------- afterwards


def _report(plans: Sequence[Plan], options: Options, console: Console) -> tuple[list[list[Path]], set[str]]:
    """Every study's report, and its table on the screen; returns the files of each, and all trials' statuses."""
    from studies.harness import figures, report

    written, statuses = [], set[str]()
    for each in plans:
        frame = ledger.frame(each.trials, options.root)
        statuses |= set(frame["status"])
        folder = options.root / "reports" / each.study.name / each.workload.replace("/", "-")
        by_epoch = ledger.frame(each.trials, options.root, per="epoch")
        drawn = [*figures.draw(each.study, frame, folder), *figures.draw_diagnostics(by_epoch, folder)]
        written.append([*report.write(each.study, each.trials, frame, folder, drawn), *drawn])
        console.print(report.console_table(each.study, frame))
        if options.as_json:
            print(report.to_json(each.study, frame))
    return written, statuses


def _last_screen(written: Sequence[Sequence[Path]], tracking: _Tracking, console: Console) -> None:
    for path in (path for paths in written for path in paths):
        console.print(f"  {os.path.relpath(path)}", highlight=False, soft_wrap=True)
    if tracking.uri:
        command = f"mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(tracking.shown_uri)}"
        console.print(f"Compare the trials: {command}", highlight=False, soft_wrap=True)
