"""The command line that every study has, and the run behind it: plan, check, train what is missing, report."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from precond import HyperparameterError
from precond.hyperparameters import nearest
from studies.harness import ledger
from studies.harness.study import Arm, Study, Trial
from trainables.store import FAILED, StoreError, TrialStore
from trainables.workloads import workload as find_workload

COMPLETE, SOME_FAILED, BAD_COMMAND, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 4, 130
SMOKE_SEEDS, SMOKE_LEVELS, SMOKE_EPOCHS = [0, 1], 2, 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line, parsed; see `--help` for what each is."""

    smoke: bool
    dry_run: bool
    report_only: bool
    seeds: list[int] | None
    workload: str | None
    epochs: int | None
    optimizers: list[str] | None
    only: dict[str, list[str]]
    max_concurrent: int | None
    tracking_uri: str | None
    out: Path | None

    @property
    def root(self) -> Path:
        """The output folder; a smoke run has its own, so that it never mixes with results."""
        root = self.out or ledger.default_root()
        return root / "smoke" if self.smoke else root


class Seeds(click.ParamType):
    """`6` is seeds 0 to 5; `3,7` is those two; `3,` is seed 3 alone."""

    name = "N | I,J,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Seeds as a list."""
        try:
            numbers = [int(part) for part in value.split(",") if part]
        except ValueError:
            numbers = []
        seeds = numbers if "," in value else list(range(numbers[0])) if numbers else []
        if not seeds or min(seeds) < 0 or max(seeds) >= 2**32 or len(set(seeds)) < len(seeds):
            self.fail(f"{value!r}: must be a number of seeds >= 1, or distinct seeds >= 0 as in 3,7", param, ctx)
        return seeds


class Levels(click.ParamType):
    """`FACTOR=LEVEL[,LEVEL]`."""

    name = "FACTOR=LEVEL,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        """The factor and its levels as text."""
        factor, sign, levels = value.partition("=")
        if not (factor and sign and levels):
            self.fail(f"{value!r}: must be FACTOR=LEVEL[,LEVEL], as in rank=5,10", param, ctx)
        return factor, levels.split(",")


def main(study: Study) -> NoReturn:
    """Run a study's command line and exit with its code."""

    @click.command(
        help=f"{study.title} ({study.artefact}).\n\nClaim: {study.claim}",
        epilog="Exit codes: 0 complete (diverged trials are results), 1 some trials failed, 2 bad command (nothing "
        "started), 4 environment, 130 interrupted. The same command again goes on where it was.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    @click.option("--smoke", is_flag=True, help="Two levels, two seeds, two epochs on digits, in OUT/smoke.")
    @click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
    @click.option("--report-only", is_flag=True, help="Train nothing; report what is there.")
    @click.option("--seeds", type=Seeds(), help=f"A number of seeds, or the seeds.  [default: {study.seeds}]")
    @click.option("--workload", help=f"Model and data.  [default: {study.workload}]")
    @click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
    @click.option("--optimizers", metavar="NAME,...", help="Only these of the study's optimizers.")
    @click.option("--only", type=Levels(), multiple=True, help="Only these of a factor's levels; may be repeated.")
    @click.option("--max-concurrent", type=click.IntRange(1), help="Trials at once.  [default: one per core]")
    @click.option("--tracking-uri", metavar="none|URI", help="MLflow.  [default: OUT/mlflow.db]")
    @click.option("--out", type=click.Path(path_type=Path), help="Output folder.  [default: $PRECOND_OUT or outputs]")
    def command(optimizers: str | None, only: Sequence[tuple[str, list[str]]], **options: Any) -> None:
        names = optimizers.split(",") if optimizers else None
        sys.exit(run(study, Options(optimizers=names, only=dict(only), **options), Console()))

    command()
    raise AssertionError("click exits")


def run(study: Study, options: Options, console: Console) -> int:
    """Plan, check, train and report; returns the exit code."""
    errors = Console(stderr=True)
    try:
        trials = plan(study, options)
    except HyperparameterError as problem:
        for line in str(problem).splitlines():
            errors.print(f"error: {line}", markup=False, highlight=False, soft_wrap=True)
        return BAD_COMMAND
    missing = [] if options.report_only else ledger.missing(trials, options.root)
    console.print(f"[bold]{study.title}[/] · {study.artefact} · {trials[0].config.workload}")
    console.print(_summary(trials, missing), highlight=False)
    if options.dry_run:
        _print_plan(trials, missing, console)
        return COMPLETE
    try:
        return _train_and_report(study, options, trials, missing, console)
    except KeyboardInterrupt:
        errors.print(f"interrupted; nothing committed was lost. Go on with: {_command()}", soft_wrap=True)
        return INTERRUPTED
    except (StoreError, OSError) as problem:
        errors.print(f"error: {problem}", markup=False, highlight=False, soft_wrap=True)
        return ENVIRONMENT


# ---------------------------------------------------------------------- plan


def plan(study: Study, options: Options) -> list[Trial]:
    """The trials that a command names.

    Raises:
        HyperparameterError: One line for each thing wrong with the command.
    """
    if wrong := _problems(study, options):
        raise HyperparameterError("\n".join(wrong))
    arms = [arm for arm in study.arms if _selected(arm, options)]
    seeds, epochs, name = options.seeds, options.epochs, options.workload
    if options.smoke:
        arms, seeds, epochs, name = _fewer_levels(arms), seeds or SMOKE_SEEDS, epochs or SMOKE_EPOCHS, "digits/cnn"
    return replace(study, arms=arms).trials(name, seeds, epochs)


def _problems(study: Study, options: Options) -> list[str]:
    wrong = []
    if options.workload:
        try:
            find_workload(options.workload)
        except HyperparameterError as error:
            wrong.append(str(error))
    known = list(dict.fromkeys(arm.optimizer for arm in study.arms))
    for name in options.optimizers or []:
        if name not in known:
            wrong.append(f'optimizer = "{name}": not in this study.{nearest(name, known)}')
    levels = _levels(study)
    for factor, wanted in options.only.items():
        if factor not in levels:
            wrong.append(f"--only {factor}: not a factor of this study.{nearest(factor, levels)}")
            continue
        for level in wanted:
            if level not in levels[factor]:
                wrong.append(f"--only {factor}={level}: not a level. Known: {', '.join(levels[factor])}")
    if not wrong and not any(_selected(arm, options) for arm in study.arms):
        wrong.append("--optimizers and --only leave no arm: no optimizer named has that factor")
    return wrong


def _levels(study: Study) -> dict[str, list[str]]:
    """Each factor's levels as text, in order."""
    levels: dict[str, list[str]] = {}
    for arm in study.arms:
        for factor in arm.factors:
            seen = levels.setdefault(factor, [])
            if str(arm.overrides[factor]) not in seen:
                seen.append(str(arm.overrides[factor]))
    return levels


def _selected(arm: Arm, options: Options) -> bool:
    """Whether an arm is named by `--optimizers` and `--only`; references, which have no factor, stay."""
    if options.optimizers and arm.optimizer not in options.optimizers:
        return False
    return all(str(arm.overrides[f]) in levels for f, levels in options.only.items() if f in arm.factors)


def _fewer_levels(arms: list[Arm]) -> list[Arm]:
    """The first two levels of each optimizer."""
    kept: dict[str, list[Arm]] = {}
    for arm in arms:
        kept.setdefault(arm.optimizer, []).append(arm)
    return [arm for same in kept.values() for arm in same[:SMOKE_LEVELS]]


def _summary(trials: Sequence[Trial], missing: Sequence[Trial]) -> str:
    seeds = len({trial.config.seed for trial in trials})
    arms = len({trial.config.group_key for trial in trials})
    return (
        f"{len(trials)} trials ({arms} arms x {seeds} seeds): {len(trials) - len(missing)} done, {len(missing)} to go"
    )


def _print_plan(trials: Sequence[Trial], missing: Sequence[Trial], console: Console) -> None:
    to_go = {trial.config.trial_key for trial in missing}
    arms: dict[str, list[Trial]] = {}
    for trial in trials:
        arms.setdefault(trial.arm.label, []).append(trial)
    for label, members in arms.items():
        count = sum(trial.config.trial_key in to_go for trial in members)
        seeds = ",".join(str(trial.config.seed) for trial in members)
        console.print(f"  {label:24} seeds {seeds:12} {members[0].config.epochs} epochs  {count} to train",
                      highlight=False)  # fmt: skip
    console.print("Nothing was started (--dry-run).")


# ---------------------------------------------------------------------- train and report


def _train_and_report(
    study: Study, options: Options, trials: Sequence[Trial], missing: Sequence[Trial], console: Console
) -> int:
    from studies.harness import figures, lock, report

    root = options.root
    workload = trials[0].config.workload
    with lock.exclusive(root) as generation:
        tracking = _Tracking(study, trials, root, options, console)
        if missing:
            _train(missing, root, generation, options, console)
        frame = ledger.frame(trials, root)
        folder = root / "reports" / study.name / workload.replace("/", "-")
        paths = [*report.write(study, trials, frame, folder), *figures.draw(study, frame, folder)]
        tracking.finish(paths)
    console.print(report.console_table(study, frame))
    for path in paths:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    if tracking.uri:
        uri = options.tracking_uri or f"sqlite:///{root / 'mlflow.db'}"
        console.print(f"Compare the trials: mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(uri)}",
                      highlight=False, soft_wrap=True)  # fmt: skip
    return SOME_FAILED if FAILED in set(frame["status"]) else COMPLETE


def _train(missing: Sequence[Trial], root: Path, generation: int, options: Options, console: Console) -> None:
    from studies.harness import execute
    from studies.harness.progress import StudyProgress

    slots = min(options.max_concurrent or len(os.sched_getaffinity(0)), len(missing))
    for trial in missing:
        TrialStore(root, trial.config).create()
    with StudyProgress(missing, slots, console) as progress:
        execute.train(missing, root, generation, progress, slots=slots, provenance=_provenance())
    if ledger.missing(missing, root):  # Tune returns early, without raising, when it is interrupted
        raise KeyboardInterrupt


class _Tracking:
    """MLflow beside the training: a thread that sends what the folders have, and one last time at the end."""

    def __init__(self, study: Study, trials: Sequence[Trial], root: Path, options: Options, console: Console):
        from studies.harness import tracking

        given = options.tracking_uri
        self.uri = None if given == "none" else given or tracking.default_uri(root)
        self._sync = partial(tracking.sync, study, trials, root, self.uri, smoke=options.smoke)
        self._console = console
        self._thread = tracking.BackgroundSync(self._sync, self._warn) if self.uri else None

    def finish(self, artifacts: Sequence[Path]) -> None:
        """Send the rest and the report; a server that fails costs a line, not the report."""
        if self._thread is None:
            return
        self._thread.stop()
        try:
            self._sync(artifacts=artifacts)
        except Exception as error:
            self._warn(f"tracking failed, all results are in the folders: {type(error).__name__}: {error}")

    def _warn(self, message: str) -> None:
        self._console.print(message.partition("\n")[0], style="yellow", markup=False, soft_wrap=True)


def _provenance() -> dict[str, Any]:
    """What workers note about the code they run."""
    return {"host": platform.node(), "python": platform.python_version(), **_git()}


def _git() -> dict[str, Any]:
    """Commit of the code, and whether it was edited; empty outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_sha": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _command() -> str:
    return shlex.join(["python", *sys.argv])
