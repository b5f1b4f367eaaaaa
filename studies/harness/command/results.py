"""The results of an artefact, and the trials of an output folder, for Python and notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from precond.counts import counted
from studies.harness.command import reports, screen
from studies.harness.design.arms import Arm, Trial, sort_key
from studies.harness.design.configurations import configuration_of, varied
from studies.harness.design.result import Report
from studies.harness.kinds.artefact import Plan
from trainables.config import TrialConfig
from trainables.store import read_config, trial_folders

if TYPE_CHECKING:
    import pandas as pd

    from studies.harness.evidence.analysis import Evidence

Rows = Literal["trial", "epoch"]


@dataclass(frozen=True)
class ResultFigure:
    """A figure of a report; Jupyter displays it.

    Attributes:
        path: The PNG file. Files with the suffixes `.svg` and `.pdf` are beside it.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


class Result:
    """The results of a study, search, probe or cost study on one or more workloads.

    They are those of the report: of all seeds in the output folder. `result["digits/cnn"]` has the
    results on one workload. The trial folders are read when they are first needed; call
    `studies.load` to read them again.

    Attributes:
        workloads: The workloads.
    """

    def __init__(self, plans: Sequence[Plan]):
        self._plans = [plan.artefact.reported(plan) for plan in plans]
        self.workloads = [plan.workload for plan in plans]

    @property
    def plans(self) -> Sequence[Plan]:
        """The plans of the results, one for each workload."""
        return self._plans

    def __getitem__(self, workload: str) -> Result:
        if workload not in self.workloads:
            raise KeyError(f"{workload}: the workloads are {', '.join(self.workloads)}")
        return Result([plan for plan in self._plans if plan.workload == workload])

    def __iter__(self) -> Iterator[str]:
        return iter(self.workloads)

    def frame(self, per: Rows = "trial") -> pd.DataFrame:
        """Return a table of the trials, with a column for each hyperparameter and setting.

        Args:
            per: `trial` for a row for each planned trial, with the metrics of its last epoch;
                `epoch` for a row for each committed epoch.

        A probe has a row for each measured number, and a cost study a row for each optimizer. They
        have no rows for epochs.

        Raises:
            HyperparameterError: The kind of the artefact has no rows for epochs.
        """
        import pandas as pd

        tables = [plan.artefact.frame(plan, per) for plan in self._plans]
        return pd.concat(tables, ignore_index=True)

    @property
    def evidence(self) -> Evidence | None:
        """The analysis of the trials on a single workload; None for a probe or a cost study.

        It is None for a search that has no winner yet, too.
        """
        self._single("evidence")
        return self._evidence[0]

    @property
    def claims(self) -> pd.DataFrame:
        """The decisions on the claims, as in `claims.csv`, with the workload."""
        import pandas as pd

        rows = [
            {"workload": plan.workload, **claim}
            for plan, report in zip(self._plans, self._reports, strict=True)
            for claim in report.claims
        ]
        return pd.DataFrame(rows)

    @property
    def figures(self) -> dict[str, ResultFigure]:
        """The figures of the last report by name, the main figure first.

        With several workloads, the name begins with the workload.
        """
        several = len(self._plans) > 1
        return {
            f"{plan.workload}/{path.stem}" if several else path.stem: ResultFigure(path)
            for plan, report in zip(self._plans, self._reports, strict=True)
            for path in report.files
            if path.suffix == ".png"
        }

    @property
    def report(self) -> Path | None:
        """The path of `report.html` for a single workload; None before the first report."""
        self._single("report")
        return next((path for path in self._reports[0].files if path.suffix == ".html"), None)

    def show(self) -> None:
        """Display the claims, the figure and the table in a notebook.

        Elsewhere, print the claims, the table and the paths of the report.
        """
        console = screen.terminal()
        if console.is_jupyter:
            from IPython.display import display

            display(self)
            return
        for plan, report in zip(self._plans, self._reports, strict=True):
            console.print(plan.headline)
            screen.show(report, console)

    def __repr__(self) -> str:
        name, root = self._plans[0].artefact.name, self._plans[0].root
        places = ", ".join(f"{plan.workload}: {_summary(plan)}" for plan in self._plans)
        return f"<Result of {name} in {root}; {places}>"

    def _repr_html_(self) -> str:
        from studies.harness.report.document import fragment

        parts = []
        for plan, report in zip(self._plans, self._reports, strict=True):
            pictures = [path for path in report.files if path.suffix == ".png"][:1]
            title = f"{plan.artefact.title} · {plan.workload}"
            parts.append(fragment(title, report.claims, report.listing, pictures))
        return "\n".join(parts)

    def _single(self, name: str) -> None:
        if len(self._plans) > 1:
            example = f'result["{self.workloads[0]}"].{name}'
            raise ValueError(f"there are {len(self._plans)} workloads: use {example}, for example")

    @cached_property
    def _evidence(self) -> list[Evidence | None]:
        return [plan.artefact.evidence(plan) for plan in self._plans]

    @cached_property
    def _reports(self) -> list[Report]:
        """For each workload, the last report with the current decisions and table."""
        return [
            _current(plan, evidence)
            for plan, evidence in zip(self._plans, self._evidence, strict=True)
        ]


def _summary(plan: Plan) -> str:
    """Return the numbers of planned and finished trials, such as `4 trials (...): 4 done, 0 to go`."""
    options = replace(plan.options, report_only=True, dry_run=False)
    return plan.artefact.missing(replace(plan, options=options)).summary.partition("\n")[0]


def _current(plan: Plan, evidence: Evidence | None) -> Report:
    """Return the last report with the decisions and the table of the evidence, if there is one."""
    report = reports.last(plan.folder)[1] or Report(files=())
    if evidence is None:
        return report
    from studies.harness.report import arms, claims

    return replace(
        report,
        claims=claims.records(evidence.claims),
        listing=arms.listing(evidence, plan.artefact.title),
    )


class Folder:
    """All trials of an output folder, whatever they were trained for.

    Attributes:
        root: The output folder.
    """

    def __init__(self, root: Path):
        self.root = root

    @cached_property
    def trials(self) -> list[Trial]:
        """The trials in the order of workload, optimizer, hyperparameters and seed.

        A folder can contain trials that no study file describes. The label of a trial's arm
        contains the values that differ between the trials with the same optimizer and workload.
        """
        configs = [
            TrialConfig.from_dict(read_config(folder)["config"])
            for folder in trial_folders(self.root)
        ]
        groups: dict[tuple[str, str], list[TrialConfig]] = {}
        for config in configs:
            groups.setdefault((config.workload, config.optimizer), []).append(config)
        return [trial for _, group in sorted(groups.items()) for trial in _labelled(group)]

    def frame(self, per: Rows = "trial") -> pd.DataFrame:
        """Return a table of the trials, with a column for each hyperparameter and setting.

        Args:
            per: `trial` for a row for each trial, with the metrics of its last epoch; `epoch` for a
                row for each committed epoch.
        """
        from studies.harness.evidence import ledger

        # The configuration of a trial does not contain whether it is an as-released variant.
        return ledger.frame(self.trials, self.root, per, configuration=True).drop(
            columns="as_released"
        )

    def __repr__(self) -> str:
        from studies.harness.evidence.status import progress

        counts = Counter(progress(folder)["status"] for folder in trial_folders(self.root))
        text = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        return f"<Folder {self.root}: {counted(len(self.trials), 'trial')}, {text}>"

    def _repr_html_(self) -> str:
        return self.frame()._repr_html_()  # type: ignore[attr-defined]


def _labelled(configs: Sequence[TrialConfig]) -> list[Trial]:
    """Return the trials of one optimizer on one workload, labelled by the values that differ."""
    from studies.harness.evidence.ledger import RESERVED

    rows = [configuration_of(config.to_dict(), RESERVED) for config in configs]
    # The value that a trial of an earlier version lacks distinguishes the trial, too.
    missing = dict.fromkeys(name for row in rows for name in row)
    names = varied([missing | row for row in rows])
    trials = []
    for config, row in zip(configs, rows, strict=True):
        levels = {name: row.get(name) for name in names}
        arm = Arm(optimizer=config.optimizer, overrides=levels, factors=tuple(names))
        order = [*map(sort_key, levels.values()), sort_key(config.seed)]
        trials.append((order, Trial(arm, config)))
    return [trial for _, trial in sorted(trials, key=lambda pair: pair[0])]
