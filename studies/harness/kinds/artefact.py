"""The protocol that every kind of artefact implements; `command/run.py` knows artefacts by it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from studies.harness.design.facts import Facts
from studies.harness.design.options import SMOKE_WORKLOAD, Options, report_folder

if TYPE_CHECKING:
    from rich.console import Console

    from studies.harness.design.arms import Trial
    from studies.harness.design.result import Report
    from studies.harness.tracking.view import View


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An artefact on one workload, as a command sets it; each kind adds what it needs.

    Attributes:
        artefact: With what the command changes in it.
        workload: What is trained or timed.
        options: The command line.
        trials: The trials, as far as they are known before anything runs.
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
    """What of a plan is not done yet.

    Attributes:
        count: Number of trials, networks or measurements to go.
        summary: What a command prints first: how many there are, how many are done, how many are to go.
        details: Further lines for `--dry-run`.
        records: The same for `--dry-run --json`, a line each.
        trials: Trials to go, or stand-ins for them: their data must be there, and their price is estimated.
        on_ray: True if they are trained by Ray, so that a cluster must be usable.
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
        console: Where progress is shown.
        on_lost: Called by the cluster's watchdog if Ray has died; returns the exit code for the process.
    """

    options: Options
    generation: int
    console: Console
    on_lost: Any


@dataclass(frozen=True, kw_only=True)
class Artefact(Facts):
    """A table or figure of a paper that a command reproduces. A study file holds one, as a literal.

    A new kind is a folder beside this file: a subclass of this class, and the modules `plan`, `execute` and `report`
    with the functions that the methods below call. They are imported when they are used, since they need torch and
    pandas. `command/` runs the new kind without any change.
    """

    KIND: ClassVar[str]  # one word for messages and lists
    FLAGS: ClassVar[Sequence[click.Option]] = ()  # options that only this kind has; their texts are in `Options.extra`
    HELP: ClassVar[Mapping[str, str]] = {}  # help texts that differ from the common ones, by option
    REFUSED: ClassVar[Mapping[str, str]] = {}  # common options that this kind refuses, with the reason

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
        """Do what is missing of all plans of this kind.

        Raises:
            Stopped: Something ends it before its end.
            StoreError: Ray, the data or the output folder cannot be used.
        """
        cls.module("execute").execute(plans, driver)

    def report(self, plan: Any) -> Report:
        """Write the report from the output folder, and return what it says."""
        return self.module("report").report(plan)

    def tracking(self, plan: Any) -> View | None:
        """Return the plan's view in MLflow; None if it has none."""
        return self.module("plan").view(plan)

    def stored(self, root: Path) -> Sequence[Plan]:
        """Return the plans of which an output folder holds results: what `sync` sends to MLflow."""
        return self.module("plan").stored(self, root)

    def state(self, root: Path) -> str:
        """Return how much of the artefact is done in an output folder: `20/50`."""
        return self.module("plan").state(self, root)

    def inputs(self, plan: Any) -> Sequence[Path]:
        """Return the files and folders that the report is made from; empty if it must be made anew each time."""
        return ()

    def next_steps(self, plan: Any) -> Sequence[tuple[str, str]]:
        """Return commands that a user may want next, as (command, what it does)."""
        return ()


def workloads(artefact: Artefact, options: Options) -> list[str]:
    """Return the known workloads that the command names, or the artefact's own."""
    if options.smoke:
        return [SMOKE_WORKLOAD]
    if not options.workloads:
        return [artefact.workload]
    from trainables.workloads import unknown_workload

    return [name for name in options.workloads if not unknown_workload(name)] or [artefact.workload]
