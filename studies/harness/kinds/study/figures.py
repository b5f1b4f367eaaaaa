"""The classes of the figures of a study."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from precond.hyperparameters import nearest
from studies.harness.evidence.metrics import HEADLINE, on_workload
from trainables.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from studies.harness.evidence.analysis import Evidence
    from studies.harness.kinds.artefact import Plan
    from studies.harness.published.verdicts import Measured
    from studies.harness.report.document import Block

MEASUREMENTS = ("time/", "mem/", "system/", "diag/")  # prefixes of metrics of every workload


@dataclass(frozen=True)
class Extension:
    """The files and blocks that a figure adds to the report of its study.

    Attributes:
        drawn: The files of the pictures.
        blocks: The blocks of the report after the results.
        measured: Results to compare with published numbers, in addition to those of the metric.
        files: The contents of other files by name.
    """

    drawn: Sequence[Path] = ()
    blocks: Sequence[Block] = ()
    measured: Sequence[Measured] = ()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figure(ABC):
    """A figure of a study's trials. A new kind of figure is a subclass.

    Attributes:
        has_seconds: True if the figure's section of the report contains the seconds per epoch. The
            report then omits the section "Seconds per epoch".
        DERIVED: The metrics of `claim_values`.
        metric: The metric of the figure and of the report's tables. `headline` stands for the
            headline metric of the workload, such as the accuracy.
        references: The optimizers with which the other arms are compared.
        factor: The factor whose levels are on the horizontal axis, or an empty text.
    """

    has_seconds: ClassVar[bool] = False
    DERIVED: ClassVar[Sequence[str]] = ()

    metric: str = "test/headline"
    references: tuple[str, ...] = ()
    factor: str = ""

    def problems(self, optimizers: Collection[str], factors: Collection[str]) -> list[str]:
        """Return a line for each name that is unknown.

        Args:
            optimizers: The optimizers of the study's arms.
            factors: The factors that the arms vary.
        """
        return [
            *unknown("references", self.references, optimizers),
            *unknown("factor", [self.factor] if self.factor else [], factors),
            *unknown_metrics("metric", [self.metric]),
        ]

    def on(self, workload: str) -> Self:
        """Return the figure with the names of its metrics on a workload.

        Raises:
            HyperparameterError: The workload has no such metric.
        """
        return replace(self, metric=on_workload(self.metric, workload))

    def claim_values(self, plan: Plan, evidence: Evidence) -> Mapping[str, pd.DataFrame]:
        """Return tables of values by metric, for claims about metrics that no trial records.

        A table has a row for each seed and a column for each arm (see `arms.by_seed`).
        """
        return {}

    @abstractmethod
    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw the figure of the existing results into the report folder."""


@dataclass(frozen=True, kw_only=True)
class LevelFigure(Figure):
    """A metric at each level of a factor, with a panel for each optimizer.

    Arms without the factor are drawn as horizontal bands. If the trials contain no optimizer of the
    panels, or no level has a trial that ended, the figure is that of `CurveFigure`.
    """

    factor: str = field()  # removes the default of the base class
    panels: tuple[str, ...]

    def problems(self, optimizers: Collection[str], factors: Collection[str]) -> list[str]:
        """Return a line for each name that is unknown (see `Figure.problems`)."""
        panels = unknown("panels", self.panels, optimizers)
        return super().problems(optimizers, factors) + panels

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `<factor>.pdf`, `.png` and `.svg`, or the curves if there is no panel to draw."""
        from studies.harness.report.figures import levels

        other = evidence.of(self.metric)
        drawn = levels.draw(other, self.factor, self.panels, self.references, plan.folder)
        if drawn:
            return Extension(drawn=drawn)
        curves = CurveFigure(metric=self.metric, references=self.references)
        return curves.on(plan.workload).extend(plan, evidence)


@dataclass(frozen=True, kw_only=True)
class CurveFigure(Figure):
    """Mean curves of each arm over the epochs, with bands; a column of panels for each metric."""

    metrics: tuple[str, ...] = ("test/headline", "train/loss")

    def problems(self, optimizers: Collection[str], factors: Collection[str]) -> list[str]:
        """Return a line for each name that is unknown (see `Figure.problems`)."""
        return super().problems(optimizers, factors) + unknown_metrics("metrics", self.metrics)

    def on(self, workload: str) -> Self:
        """Return the figure with the names of its metrics on a workload (see `Figure.on`)."""
        metrics = tuple(on_workload(metric, workload) for metric in self.metrics)
        return replace(super().on(workload), metrics=metrics)

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `curves.pdf`, `.png` and `.svg`."""
        from studies.harness.report.figures import curves

        return Extension(drawn=curves.draw(evidence, self.metrics, plan.folder))


@dataclass(frozen=True, kw_only=True)
class HeatmapFigure(Figure):
    """The mean at each pair of levels of two factors, with a panel for each optimizer.

    The report also tests the interaction: if the effect of one factor depends on the other one.

    Attributes:
        factors: The factor of the rows and that of the columns.
    """

    factors: tuple[str, str]

    def problems(self, optimizers: Collection[str], factors: Collection[str]) -> list[str]:
        """Return a line for each name that is unknown (see `Figure.problems`)."""
        errors = unknown("factors", self.factors, factors)
        if not errors and len(set(self.factors)) != 2:
            errors = [f"factors = {self.factors}: must be two different factors"]
        return super().problems(optimizers, factors) + errors

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `<first>_by_<second>.pdf`, `.png` and `.svg`, and test the interaction."""
        from studies.harness.evidence.interaction import cells
        from studies.harness.report import interaction
        from studies.harness.report.figures import heatmap

        evidence = evidence.of(self.metric)
        parts = cells(evidence.arms, self.factors, evidence.factors)
        drawn = heatmap.draw(evidence, parts, plan.folder)
        return Extension(drawn=drawn, blocks=interaction.section(evidence, parts))


@dataclass(frozen=True, kw_only=True)
class DiagnosticsFigure(Figure):
    """Mean diagnostics of each arm over the epochs, with a panel for each measure.

    Without `--diagnostics`, there are no measures and no figure.
    """

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `diagnostics.pdf`, `.png` and `.svg`."""
        from studies.harness.report.figures.curves import draw_diagnostics

        return Extension(drawn=draw_diagnostics(evidence.by_epoch, plan.folder))


@dataclass(frozen=True, kw_only=True)
class ResidualFigure(Figure):
    """The final loss of each trial against its mean residual |A - A^|_F / |A|_F.

    A is the activation covariance of a layer with p inputs, and A^ its approximation of rank r. The
    mean is over epochs and preconditioned layers. A layer with p <= r is stored exactly, and its
    residual is 0. Without `--diagnostics`, there are no residuals and no figure.
    """

    optimizers: tuple[str, ...]

    def problems(self, optimizers: Collection[str], factors: Collection[str]) -> list[str]:
        """Return a line for each name that is unknown (see `Figure.problems`)."""
        selected = unknown("optimizers", self.optimizers, optimizers)
        return super().problems(optimizers, factors) + selected

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `residual.pdf`, `.png` and `.svg`, and write the points as `residual.csv`."""
        from studies.harness.kinds.study.residuals import (
            METRICS,
            mean_correlation,
            residual_table,
        )
        from studies.harness.report.figures.theory import draw_residuals

        table = residual_table(evidence.frame, self.optimizers, plan.root)
        points = table.dropna(subset=["residual"])
        if points.empty:
            return Extension()
        title = (
            f"{len(points)} of {len(table)} completed trials have diagnostics; each line is one seed\n"
            "Spearman's correlation of residual and loss, mean over seeds:"
        )
        correlations = {
            metric: {name: mean_correlation(points, name, metric) for name in self.optimizers}
            for metric in METRICS
        }
        drawn = draw_residuals(points, correlations, title, plan.folder)
        return Extension(drawn=drawn, files={"residual.csv": table.to_csv(index=False)})


def unknown(field: str, names: Sequence[str], known: Collection[str]) -> list[str]:
    """Return a line for each name of a figure's field that no arm of the study has."""
    if isinstance(names, str):
        return [f'{field} = "{names}": must be a tuple, such as ("{names}",)']
    return [
        f'{field} = "{name}": no arm of the study has this name.{nearest(name, known)}'
        for name in names
        if name not in known
    ]


def unknown_metrics(field: str, names: Sequence[str]) -> list[str]:
    """Return a line for each name of a figure's field that is not a metric of a trial."""
    known = [f"{part}/{name}" for part in ("test", "train") for name in (HEADLINE, *METRICS)]
    return [
        f'{field} = "{name}": unknown.{nearest(name, known)}'
        for name in names
        if name not in known and not name.startswith(MEASUREMENTS)
    ]
