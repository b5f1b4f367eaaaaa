"""The interface that every kind of artefact implements.

`command/run.py` uses artefacts only through this interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import click

from precond.hyperparameters import HyperparameterError
from studies.harness.design.facts import Facts
from studies.harness.design.options import (
    DEFAULT_WORKLOAD,
    Options,
    report_folder,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from studies.harness.design.arms import Trial
    from studies.harness.design.result import Report
    from studies.harness.evidence.analysis import Evidence
    from studies.harness.kinds.records import Stored
    from studies.harness.tracking.view import View


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An artefact on one workload, with the options of a command. Subclasses add fields.

    Attributes:
        artefact: The artefact, after the options have replaced its defaults.
        workload: The workload to train or time.
        options: The options of the command.
        trials: The trials that are known before the work starts.
        selection: The options that make the plan another than the artefact's own, such as
            `optimizers=sgd,adam`, as the name of a folder; empty for the artefact's own plan.
    """

    artefact: Any
    workload: str
    options: Options
    trials: Sequence[Trial] = ()
    selection: str = ""

    @property
    def root(self) -> Path:
        """The output folder."""
        return self.options.root

    @property
    def folder(self) -> Path:
        """The folder of the report."""
        return report_folder(self.root, self.artefact.name, self.workload, self.selection)

    @property
    def selecting(self) -> dict[str, Any]:
        """The options of the selection (`Options.selecting`)."""
        return self.options.selecting if self.selection else {}

    @property
    def planned(self) -> int:
        """The number of planned results; 0 if it is unknown."""
        return len(self.trials)

    @property
    def headline(self) -> str:
        """The title, the citation, the workload and the selection in one line."""
        parts = self.artefact.citation, self.workload, self.selection
        return " · ".join([f"[bold]{self.artefact.title}[/]", *filter(None, parts)])


@dataclass(frozen=True, kw_only=True)
class Work:
    """The part of a plan that is not done yet.

    Attributes:
        count: The number of missing trials, networks or measurements.
        summary: The first lines that a command prints, with the numbers of planned, finished and
            missing trials, networks or measurements.
        details: Additional lines for `--dry-run`.
        records: The output of `--dry-run --json`, one record per line.
        trials: The missing trials, or trials that need the same data and the same time. The command
            uses them to check the data and to estimate the duration.
        on_ray: True if Ray trains the trials, so that the command requires a cluster.
    """

    count: int
    summary: str
    details: Sequence[str] = ()
    records: Sequence[Mapping[str, Any]] = ()
    trials: Sequence[Trial] = ()
    on_ray: bool = False


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The process that executes plans while it holds the lock of the output folder.

    Attributes:
        options: The options of the command.
        generation: A number that each new driver of an output folder increments. Before each write,
            a worker checks that no later driver has started, and stops otherwise.
        console: The terminal that shows the progress.
        on_lost: The function that the cluster's watchdog calls after Ray has died. It returns the
            exit code for the process.
    """

    options: Options
    generation: int
    console: Console
    on_lost: Any


@dataclass(frozen=True, kw_only=True)
class Artefact(Facts):
    """A table or figure of a paper that a command reproduces, or the tuning of a recipe.

    A study file defines an artefact as a literal. The command `tune-recipe` creates the tuning.

    A kind is a folder beside this file. It contains a subclass of this class, and the modules
    `plan`, `execute` and `report` with the functions that the methods below call. They need torch
    and pandas, and are imported on first use. The room `command` needs no change for a new kind.

    Attributes:
        KIND: The name of the kind in messages and lists, one word.
        FLAGS: The options that only this kind has. `Options.extra` contains their values as text.
        HELP: The help texts that replace the common ones, by option.
        REFUSED: The common options that this kind does not accept. Each has the reason as a clause
            for the error message, such as "which has no arms".
        workload: The default workload.
    """

    KIND: ClassVar[str]
    FLAGS: ClassVar[Sequence[click.Option]] = ()
    HELP: ClassVar[Mapping[str, str]] = {}
    REFUSED: ClassVar[Mapping[str, str]] = {}

    workload: str = DEFAULT_WORKLOAD

    @classmethod
    def module(cls, name: str) -> Any:
        """Return a module of the kind's folder."""
        return import_module(f"{cls.__module__.rpartition('.')[0]}.{name}")

    def plan(self, options: Options) -> Sequence[Any]:
        """Return a plan for each workload of the command.

        Raises:
            HyperparameterError: One line for each error in the plans.
            StoreError: This version cannot read the output folder.
        """
        return self.module("plan").plans(self, options)

    def missing(self, plan: Any) -> Work:
        """Return the work without a result in the output folder. Nothing is written.

        Raises:
            StoreError: This version cannot read the output folder.
        """
        return self.module("plan").missing(plan)

    @classmethod
    def execute(cls, plans: Sequence[Any], driver: Driver) -> None:
        """Do the missing work of the plans.

        Raises:
            Stopped: The work ended early, for example because of a signal or the time budget.
            StoreError: Ray, the data or the output folder is not usable.
        """
        cls.module("execute").execute(plans, driver)

    def reported(self, plan: Any) -> Any:
        """Return the plan that the report shows, such as that of all seeds in the output folder."""
        return plan

    def results(self, plan: Any) -> Sequence[str]:
        """Return the existing results, as paths of files relative to the output folder."""
        return ()

    def report(self, plan: Any) -> Report:
        """Write the report of a `reported` plan, and return its content as plain values."""
        return self.module("report").report(plan)

    def evidence(self, plan: Any) -> Evidence | None:
        """Return the analysis of the trials, or None for a kind without one. Writes nothing."""
        return None

    def frame(self, plan: Any, per: Literal["trial", "epoch"]) -> pd.DataFrame:
        """Return a table of the plan's results.

        Args:
            plan: The plan.
            per: `trial` for a row for each trial, or `epoch` for a row for each committed epoch.

        Raises:
            HyperparameterError: The kind has no rows for epochs.
        """
        from studies.harness.evidence import ledger

        return ledger.frame(plan.trials, plan.root, per, configuration=True)

    def tracking(self, plan: Any) -> View | None:
        """Return the description of the plan's MLflow runs, or None if the kind has no runs."""
        return self.module("plan").view(plan)

    def stored(self, root: Path) -> Stored:
        """Return the plans with results in an output folder. `sync` sends their runs to MLflow."""
        return self.module("plan").stored(self, root)

    def program(self, workload: str) -> Sequence[str]:
        """Return the command after `python`, without options; empty for that of a study file."""
        return ()

    def state(self, root: Path) -> str:
        """Return the amounts of finished and planned work in an output folder, such as `20/50`."""
        return self.module("plan").state(self, root)

    def inputs(self, plan: Any) -> Sequence[Path]:
        """Return the files and folders from which the report is made.

        A command writes the report only if these inputs, the code or the plan have changed. If the
        result is empty, every command writes the report.
        """
        return ()

    def next_steps(self, plan: Any) -> Sequence[tuple[str, str]]:
        """Return the commands that a user may run next, as pairs (command, effect)."""
        return ()


def only_per_trial(artefact: Artefact, per: str) -> None:
    """Raise `HyperparameterError` unless the rows of a table are those of trials."""
    if per != "trial":
        reason = f"{artefact.name} is a {artefact.KIND} and has no rows for epochs"
        raise HyperparameterError(f'per = "{per}": {reason}; use "trial"')
