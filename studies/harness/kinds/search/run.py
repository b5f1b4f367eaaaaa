"""A search's command line: plan, propose and train up to the budget, train the winners, report. `main(SEARCH)`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from studies.harness.cluster.progress import StudyProgress
from studies.harness.command import estimate, screen
from studies.harness.command.cli import EXIT_CODES, SETTINGS, leave
from studies.harness.command.options import FLAGS, Options, parse
from studies.harness.command.run import (
    COMPLETE,
    ENVIRONMENT,
    SOME_FAILED,
    STOPS,
    Stopped,
    check_room,
    guarded,
    lost,
    refuse,
    unfit_cluster,
    workers,
)
from studies.harness.evidence import ledger
from studies.harness.kinds.search.part import Known, Part, checked
from studies.harness.kinds.search.search import Search
from studies.harness.kinds.study.plan import Plan
from studies.harness.tracking.background import Tracking
from trainables.ready import ready
from trainables.store import FAILED, StoreError

ABSENT = ("only", "levels", "rerun")  # they select among the arms of a grid
HELP = {
    "smoke": "Two optimizers, two configurations, two fresh seeds, two epochs on digits, in OUT/smoke.",
    "seeds": "Fresh seeds for the winners: 6 is seeds 0 to 5; 3,7 is those two.",
    "settings": "Set a hyperparameter that is not tuned, or a setting of the recipe.",
    "dry_run": "Print the plan and stop; with --json a line for each optimizer.",
}
OWN = [
    click.Option(["--budget"], metavar="N", help="Configurations for each optimizer, instead of the study's."),
    click.Option(["--sampler"], metavar="NAME", help="One of Optuna's: tpe, random, nsgaii, gp, qmc, ..."),
    click.Option(["--asha"], is_flag=True, help="Stop configurations that fall behind."),
]


def main(search: Search) -> NoReturn:
    """Run a search's command line and exit with its code."""

    def execute(**raw: Any) -> int:
        own = {name: raw.pop(name) for name in ("budget", "sampler", "asha")}
        chosen, wrong = _chosen(search, **own)
        options, others = parse({**dict.fromkeys(ABSENT, ()), **raw})
        return run(chosen, options, [*wrong, *others])

    help_text = f"{search.title} ({search.citation}).\n\nClaim: {search.claim}"
    leave(click.Command(search.name, SETTINGS, execute, _flags(), help_text, EXIT_CODES))


def _flags() -> list[click.Parameter]:
    offered: list[click.Parameter] = []
    for flag in (flag for flag in FLAGS if flag.name not in ABSENT):
        name = str(flag.name)
        offered.append(_with_help(flag, HELP[name]) if name in HELP else flag)
    return [*offered, *OWN]


def _with_help(flag: click.Option, text: str) -> click.Option:
    return click.Option([*flag.opts, str(flag.name)], metavar=flag.metavar, is_flag=flag.is_flag, help=text,
                        multiple=flag.multiple)  # fmt: skip


def _chosen(search: Search, budget: str | None, sampler: str | None, asha: bool) -> tuple[Search, list[str]]:
    """The search as its own flags have set it, and a line for each that is wrong."""
    wrong = []
    if budget is not None:
        if budget.isdecimal() and int(budget) >= 1:
            search = replace(search, budget=int(budget))
        else:
            wrong.append(f"--budget = {budget}: must be an integer >= 1")
    if sampler is not None:
        search = replace(search, sampler=sampler.lower().replace("-", "").removesuffix("sampler"))
    return replace(search, asha=search.asha or asha), wrong


def run(search: Search, options: Options, wrong: Sequence[str] = ()) -> int:
    """Plan, check, tune, train the winners and report; returns the exit code."""
    console = screen.terminal(stderr=options.as_json)
    made, problems = checked(search, options)
    if wrong or problems:
        return refuse([*wrong, *problems])
    return guarded(lambda: _run(made, options, console), options.root)


def _run(parts: Sequence[Part], options: Options, console: Console) -> int:
    expected = [] if options.report_only else [trial for part in parts for trial in part.expected()]
    for part in parts:
        _print_plan(part, options, console)
    if options.dry_run:
        if expected and not options.as_json:
            console.print(str(estimate.estimate(expected, options)), highlight=False)
        console.print("Nothing was started (--dry-run).")
        return COMPLETE
    names = {trial.config.workload for trial in expected}
    if problems := ready(names, options.data_dir, download=options.download, verify=options.verify_data):
        return refuse(problems)
    if expected and options.address and (problems := unfit_cluster(options.address, options, console)):
        return refuse(problems)
    from studies.harness.command import lock

    with lock.exclusive(options.root) as generation:
        check_room(options.root)
        parts = [Part(part.plan, options) for part in parts]  # another driver may have proposed since they were read
        plans = [Plan(part.plan.search.as_study, Known(part)) for part in parts]
        tracking, written = Tracking(plans, options, console), []
        try:
            if expected:
                _train(parts, generation, options, console)
        finally:
            written = [_report(part, options, console) for part in parts]
            tracking.finish(written)
            if tracking.uri:
                _end_stopped(parts, tracking.uri, options, console)
    for path in (path for paths in written for path in paths):
        console.print(f"  {os.path.relpath(path)}", highlight=False, soft_wrap=True)
    screen.say_next(screen.compare(options.root, tracking.uri, tracking.shown_uri), console)
    return SOME_FAILED if any(FAILED in _statuses(part, options.root) for part in parts) else COMPLETE


def _end_stopped(parts: Sequence[Part], uri: str, options: Options, console: Console) -> None:
    """Close MLflow's runs of what ASHA stopped; a server that fails costs a line."""
    keys, name = [key for part in parts for key in part.stopped()], parts[0].plan.search.name
    if not keys:
        return
    from studies.harness.tracking import searches as search_tracking

    try:
        search_tracking.end_stopped(f"{name}-smoke" if options.smoke else name, keys, options.root, uri)
    except Exception as error:
        line = f"tracking failed, all results are in the folders: {type(error).__name__}: {error}"
        console.print(line.partition("\n")[0], style="yellow", markup=False, soft_wrap=True)


def _print_plan(part: Part, options: Options, console: Console) -> None:
    """What is planned and done, a line for each optimizer."""
    search, plan = part.plan.search, part.plan
    console.print(f"[bold]{search.title}[/] · {search.citation} · {plan.workload}")
    asha = ", ASHA" if search.asha else ""
    console.print(
        f"{search.budget} configurations for each of {len(part.proposers)} optimizers ({search.sampler}{asha}), then "
        f"each winner under {len(plan.seeds)} fresh seeds",
        highlight=False,
    )
    width = max(len(proposer.optimizer) for proposer in part.proposers)
    for proposer in part.proposers:
        left, fresh = part.to_go(proposer)
        space = ", ".join(f"{name} {domain}" for name, domain in plan.spaces[proposer.optimizer].items())
        if options.dry_run and options.as_json:
            counts = {"configurations": search.budget, "configurations to go": left, "fresh to go": fresh}
            print(
                json.dumps(
                    {"search": search.name, "workload": plan.workload, "optimizer": proposer.optimizer, **counts}
                )
            )
            continue
        line = f"  {proposer.optimizer:{width}}  {left} configurations and {fresh} fresh trials to go  ({space})"
        console.print(line, highlight=False, soft_wrap=True)


def _train(parts: Sequence[Part], generation: int, options: Options, console: Console) -> None:
    """Tune and train; raises `Stopped` when something is left."""
    from studies.harness.cluster import search as search_tune

    cluster, worker = workers(options, generation)
    for part in parts:
        expected = part.expected()
        if not expected:
            continue
        for proposer in part.proposers:
            proposer.begin(options.retry)
        epochs = sum(trial.config.epochs for trial in expected)
        with StudyProgress([], console, more=len(expected), epochs=epochs) as progress:
            try:
                ended = search_tune.train(part.proposers, part.begin, options.root, cluster, worker, progress, lost)
            except StoreError as problem:
                raise Stopped(ENVIRONMENT, f"error: {problem}") from problem
        if ended in STOPS and any(any(part.to_go(proposer)) for proposer in part.proposers):
            raise Stopped(*STOPS[ended])


def _report(part: Part, options: Options, console: Console) -> list[Path]:
    """Write the report, and its tables to the screen."""
    from studies.harness.kinds.search import report as search_report
    from studies.harness.kinds.search import results as search_found

    fresh = [trial for proposer in part.proposers for trial in part.fresh(proposer)]
    found = search_found.Found(part.plan, part.proposers, fresh, options.root)
    folder = options.root / "reports" / part.plan.search.name / part.plan.workload.replace("/", "-")
    paths = search_report.write(found, folder)
    console.print(search_report.console_table(found))
    if options.as_json:
        print(search_found.to_json(found))
    return paths


def _statuses(part: Part, root: Path) -> set[str]:
    fresh = [trial for proposer in part.proposers for trial in part.fresh(proposer)]
    return {one.status for p in part.proposers for one in p.outcomes()} | set(ledger.frame(fresh, root)["status"])
