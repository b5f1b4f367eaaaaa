"""Run artefacts and load results from Python: `studies.run` and `studies.load`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from precond.hyperparameters import HyperparameterError, nearest
from studies.harness.command import arguments, screen
from studies.harness.command import run as command
from studies.harness.command.arguments import translated
from studies.harness.command.catalogue import artefacts
from studies.harness.command.problems import ActivityError, terminable
from studies.harness.command.results import Folder, Result
from studies.harness.design.ending import ENVIRONMENT, INTERRUPTED, TERMINATED, Stopped
from studies.harness.design.options import Options, default_root
from studies.harness.kinds.artefact import Artefact, Plan
from trainables.store import StoreError, trial_folders

PathLike = str | os.PathLike[str]
RESUME = "all committed results are kept. To resume, call run again with the same arguments"
# The variables that Ray and its settings need in each run of this process.
_variables: dict[str, str] = {}
_running = threading.Lock()


def run(
    artefact: Artefact | str,
    *,
    out: PathLike | None = None,
    seeds: int | Iterable[int] | str | None = None,
    workload: str | Sequence[str] | None = None,
    optimizers: str | Sequence[str] | None = None,
    epochs: int | None = None,
    only: Mapping[str, Any] | None = None,
    levels: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    smoke: bool = False,
    dry_run: bool = False,
    report_only: bool = False,
    plugins: PathLike | Sequence[PathLike] | None = None,
    tracking_uri: str | None = None,
    time_budget: float | str | None = None,
    max_concurrent: int | None = None,
    retry: str | Sequence[str] | None = None,
    **options: Any,
) -> Result:
    """Train the missing trials of an artefact, write its report, and return its results.

    This is the command of a study file. It prints its progress, and shows it in a notebook.
    Trials that diverged or failed are results and raise no error.

    Args:
        artefact: A study, search, probe or cost study, or the name of one of the study files, such
            as `"ablation_rank"`.
        out: The output folder; `$PRECOND_OUT` or `outputs` if None.
        seeds: The number of seeds, or the seeds: 5 means the seeds 0 to 4, and `[3, 7]` two seeds.
        workload: One or more workloads, instead of the artefact's.
        optimizers: Train only these optimizers.
        epochs: The number of epochs, instead of the recipe's.
        only: Train only these levels of a factor, such as `{"rank": [5, 10]}`.
        levels: Train these levels instead of the study's.
        settings: Hyperparameters and training settings, such as `{"damping": 0.1}`, for every
            configuration that has them.
        smoke: A quick test on digits, in the folder `smoke` of the output folder.
        dry_run: Print the plan, and start nothing.
        report_only: Train nothing, and report the results in the output folder.
        plugins: Python files that register optimizers or workloads.
        tracking_uri: MLflow's server or database, or `"none"`; a database in the output folder if
            None.
        time_budget: Seconds, or a text such as `"30m"`, after which the training stops.
        max_concurrent: The largest number of concurrent trials.
        retry: Resume the trials that ended as `"diverged"`, `"oom"` or `"failed"`.
        **options: Any other option of the artefact's command with `_` in place of `-`, such as
            `diagnostics=True` or, for a search, `budget=40`.

    Raises:
        HyperparameterError: An argument is invalid, or data are missing. The message has one line
            for each error. Nothing was started or written.
        KeyboardInterrupt: The training was interrupted. The report was written, and the committed
            results are kept.
        Stopped: The time budget is used up, or Ray, the data or the output folder became unusable.
            The committed results are kept.
        StoreError: The output folder is in use or unusable, or another `run` is in progress in this
            process.
    """
    given = {name: value for name, value in locals().items() if name not in ("artefact", "options")}
    artefact = _find(artefact)
    with _single_run(), _environment(), _translate_errors():
        parsed, errors = arguments.options(artefact, {**given, **options})
        return Result(_run(artefact, parsed, errors))


def load(
    what: Artefact | PathLike,
    *,
    out: PathLike | None = None,
    workload: str | Sequence[str] | None = None,
    **options: Any,
) -> Result | Folder:
    """Return results of an output folder. Nothing is trained or written.

    Args:
        what: An artefact or the name of a study file, whose results are returned as those of `run`;
            or an output folder, to return all its trials, whatever they were trained for. Its
            `frame()` is a pandas table with a column for each hyperparameter, from which rows are
            selected as in `frame.query('workload == "digits/cnn" and optimizer == "sgd"')`.
        out: The output folder of the artefact; `$PRECOND_OUT` or `outputs` if None.
        workload: One or more workloads; by default those with results in the folder, or the artefact's
            own if there are none.
        **options: The arguments of `run` that select other trials of the artefact, such as
            `optimizers`, `levels` or `epochs`.

    Raises:
        HyperparameterError: The name, the folder or the workload is unknown.
        StoreError: A newer version wrote the folder.
    """
    if isinstance(what, Artefact) or (isinstance(what, str) and what in artefacts()):
        with _translate_errors():
            return Result(_stored(_find(what), out, workload, options))
    if out is not None or not isinstance(what, str | os.PathLike):
        _find(what)  # raises the error
    if not Path(what).is_dir():
        near = nearest(str(what), artefacts())
        raise HyperparameterError(f'"{what}" is neither a folder nor the name of a study.{near}')
    if workload is not None or options:
        names = ", ".join([*(["workload"] if workload is not None else []), *options])
        rule = "only for the results of a study; select rows of the table of the folder instead"
        raise HyperparameterError(f"{names}: {rule}")
    if not any(trial_folders(Path(what))):
        raise HyperparameterError(f"{what} contains no trials: name the output folder of a study")
    return Folder(Path(what))


def _find(artefact: Any) -> Artefact:
    """Return an artefact by its name; an artefact is returned unchanged."""
    if isinstance(artefact, Artefact):
        return artefact
    if not isinstance(artefact, str):
        kinds = "a study, a search, a probe, a cost study, or the name of a study file"
        raise HyperparameterError(f"artefact = {artefact!r}: must be {kinds}")
    known = artefacts()
    if artefact not in known:
        raise HyperparameterError(f'study "{artefact}": unknown.{nearest(artefact, known)}')
    return known[artefact]


def _run(artefact: Artefact, options: Options, errors: Sequence[str]) -> Sequence[Plan]:
    console = screen.terminal()
    with terminable():
        plans, work, problems = command.plan_all([artefact], options)
        if errors or problems:
            raise command.Refused([*errors, *problems])
        work = [
            replace(
                part,
                summary=translated(part.summary),
                details=[*map(translated, part.details)],
            )
            for part in work
        ]
        if options.dry_run:
            command.print_plans(plans, work, options, console)
        else:
            command.execute(plans, work, options, console, on_lost=_on_lost, print_results=False)
    return plans


def _stored(
    artefact: Artefact,
    out: PathLike | None,
    workload: str | Sequence[str] | None,
    selecting: Mapping[str, Any],
) -> Sequence[Plan]:
    """Return the plans of an artefact, by default on the workloads of its reports."""
    root = default_root() if out is None else Path(out).expanduser()
    if workload is None:
        stored = artefact.stored(root).plans
        whole = [plan for plan in stored if not plan.selection]
        workload = list(dict.fromkeys(plan.workload for plan in whole or stored)) or None
    given = {**selecting, "out": root, "workload": workload}
    options, errors = arguments.options(artefact, given)
    plans, _, problems = command.plan_all([artefact], options)
    if errors or problems:
        raise command.Refused([*errors, *problems])
    if not root.is_dir():
        raise HyperparameterError(f"out = {root}: there is no such folder")
    return plans


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise the exceptions of the context with messages for a caller in Python."""
    try:
        yield
    except command.Refused as error:
        lines = screen.printable(map(translated, error.problems))
        raise HyperparameterError("\n".join(lines)) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {RESUME}.") from None
    except StoreError as error:
        raise type(error)(translated(str(error))) from error
    except ActivityError as error:
        raise StoreError(translated(str(error))) from error
    except Stopped as end:
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt(f"{end}; {RESUME}.") from None
        if end.code == TERMINATED:
            signal.raise_signal(signal.SIGTERM)  # by default, this ends the process
        reason = str(end).removeprefix("error: ")
        raise Stopped(end.code, f"{reason}; {RESUME}.") from end.__cause__


def _on_lost(problem: str) -> int:
    """Print that the Ray cluster was lost; return the exit code for the process."""
    print(f"{problem}; {RESUME}.", file=sys.stderr)
    return ENVIRONMENT


@contextmanager
def _single_run() -> Iterator[None]:
    """Raise `StoreError` if another thread is in the context: a process has a single Ray."""
    if not _running.acquire(blocking=False):
        raise StoreError("another run is in progress in this process: wait until it ends")
    try:
        yield
    finally:
        _running.release()


@contextmanager
def _environment() -> Iterator[None]:
    """Undo the changes of the environment at the end of the context.

    The variables that Ray and its modules set, once for a process, are kept for the next context.
    """
    before = dict(os.environ)
    for name, value in _variables.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        added = os.environ.keys() - before
        _variables.update(
            (name, os.environ[name]) for name in added if name.startswith(("RAY_", "TUNE_"))
        )
        for name in added:
            del os.environ[name]
        os.environ.update(before)
