"""The protocol that every kind of artefact implements; `command/run.py` knows artefacts by it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from precond.hyperparameters import HyperparameterError
from studies.harness.design.facts import Facts
from studies.harness.design.options import SMOKE_EPOCHS, SMOKE_WORKLOAD, Options, report_folder

if TYPE_CHECKING:
    from rich.console import Console

    from studies.harness.design.arms import Trial
    from studies.harness.design.result import Report
    from studies.harness.tracking.view import View


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An artefact on one workload, as a command sets it; each kind adds its own fields.

    Attributes:
        artefact: The artefact, with the changes that the command makes.
        workload: The workload to train or time.
        options: The command line.
        trials: The trials that are known before anything runs.
    """

    artefact: Any
    workload: str
    options: Options
    trials: Sequence[Trial] = ()

    @property
    def root(self) -> Path:
        """The output folder."""
        return self.options.root

    @property
    def folder(self) -> Path:
        """The folder of the report."""
        return report_folder(self.root, self.artefact.name, self.workload)

    @property
    def headline(self) -> str:
        """Title, source and workload."""
        return f"[bold]{self.artefact.title}[/] · {self.artefact.citation} · {self.workload}"


@dataclass(frozen=True, kw_only=True)
class Work:
    """The part of a plan that is not done yet.

    Attributes:
        count: Number of trials, networks or measurements to go.
        summary: The first output of a command: how many there are, are done, and are to go.
        details: Further lines for `--dry-run`.
        records: The output of `--dry-run --json`, a line each.
        trials: Trials to go, or stand-ins for them, to check for their data and to estimate their duration.
        on_ray: True if Ray trains them, so that the command needs a cluster.
    """

    count: int
    summary: str
    details: Sequence[str] = ()
    records: Sequence[Mapping[str, Any]] = ()
    trials: Sequence[Trial] = ()
    on_ray: bool = False


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The command that executes plans, while it holds the output folder.

    Attributes:
        options: The command line.
        generation: Number of this driver for the output folder; workers compare it before each write.
        console: The terminal that shows the progress.
        on_lost: Called by the cluster's watchdog if Ray has died; returns the exit code for the process.
    """

    options: Options
    generation: int
    console: Console
    on_lost: Any


@dataclass(frozen=True, kw_only=True)
class Artefact(Facts):
    """A table or figure of a paper that a command reproduces. A study file contains one, as a literal.

    A new kind is a folder beside this file: a subclass of this class, and the modules `plan`, `execute` and `report`
    with the functions that the methods below call. They are imported when they are used, since they need torch and
    pandas. `command/` runs the new kind without any change.
    """

    KIND: ClassVar[str]  # one word for messages and lists
    FLAGS: ClassVar[
        Sequence[click.Option]
    ] = ()  # options that only this kind has; their texts are in `Options.extra`
    HELP: ClassVar[Mapping[str, str]] = {}  # help texts that differ from the common ones, by option
    REFUSED: ClassVar[
        Mapping[str, str]
    ] = {}  # common options that this kind refuses, with the reason

    workload: str = SMOKE_WORKLOAD

    @classmethod
    def module(cls, name: str) -> Any:
        """Return a module of the kind's folder."""
        return import_module(f"{cls.__module__.rpartition('.')[0]}.{name}")

    def plan(self, options: Options) -> Sequence[Any]:
        """Return a plan for each workload that the command names.

        Raises:
            HyperparameterError: One line for each error in any of them.
            StoreError: The output folder cannot be read by this version.
        """
        return self.module("plan").plans(self, options)

    def missing(self, plan: Any) -> Work:
        """Return what is still to be done; reads the output folder and writes nothing.

        Raises:
            StoreError: The output folder cannot be read by this version.
        """
        return self.module("plan").missing(plan)

    @classmethod
    def execute(cls, plans: Sequence[Any], driver: Driver) -> None:
        """Do the missing work of all plans of this kind.

        Raises:
            Stopped: A signal, the time budget or the like ended the work early.
            StoreError: Ray, the data or the output folder cannot be used.
        """
        cls.module("execute").execute(plans, driver)

    def report(self, plan: Any) -> Report:
        """Write the report from the output folder, and return its findings and files."""
        return self.module("report").report(plan)

    def tracking(self, plan: Any) -> View | None:
        """Return the plan's view in MLflow; None if it has none."""
        return self.module("plan").view(plan)

    def stored(self, root: Path) -> Sequence[Plan]:
        """Return the plans with results in an output folder; `sync` sends them to MLflow."""
        return self.module("plan").stored(self, root)

    def state(self, root: Path) -> str:
        """Return how much of the artefact is done in an output folder: `20/50`."""
        return self.module("plan").state(self, root)

    def inputs(self, plan: Any) -> Sequence[Path]:
        """Return the files and folders that the report reads; empty if it must be written each time."""
        return ()

    def next_steps(self, plan: Any) -> Sequence[tuple[str, str]]:
        """Return commands that a user may want next, as (command, what it does)."""
        return ()


def plan_workloads(
    artefact: Artefact, options: Options, plan: Callable[[str], Any], errors: Sequence[str] = ()
) -> list[Any]:
    """Return `plan(workload)` for each workload of the command; raise `errors` and those of the plans."""
    plans, errors = [], [*errors]
    for workload in workloads(artefact, options):
        try:
            plans.append(plan(workload))
        except HyperparameterError as error:
            errors += str(error).splitlines()
    if errors:
        raise HyperparameterError("\n".join(dict.fromkeys(errors)))
    return plans


def recipe(options: Options) -> dict[str, Any]:
    """Return the command's settings that replace the recipe's, such as `batch_size` or `epochs`."""
    from trainables.workloads import RECIPE_SETTINGS

    changed = {name: value for name, value in options.settings.items() if name in RECIPE_SETTINGS}
    if options.epochs is not None:
        changed["epochs"] = options.epochs
    if options.smoke:
        changed.setdefault("epochs", SMOKE_EPOCHS)
    if options.workers_per_trial != 1:
        changed["workers"] = options.workers_per_trial
    return changed


def workloads(artefact: Artefact, options: Options) -> list[str]:
    """Return the known workloads that the command names, or the artefact's default."""
    if options.smoke:
        return [SMOKE_WORKLOAD]
    if not options.workloads:
        return [artefact.workload]
    from trainables.workloads import unknown_workload

    return [name for name in options.workloads if not unknown_workload(name)] or [artefact.workload]
