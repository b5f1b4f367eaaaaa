"""The figures of a study, as literals: what is drawn, and which metric the study's tables judge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from studies.harness.evidence.analysis import Evidence
    from studies.harness.kinds.artefact import Plan
    from studies.harness.published.verdicts import Measured
    from studies.harness.report.document import Block


@dataclass(frozen=True)
class Extension:
    """What a figure adds to its study's report.

    Attributes:
        drawn: The files of the pictures.
        blocks: Sections after the results.
        measured: Results compared with published numbers beside the study's own metric.
        files: Further files by name.
    """

    drawn: Sequence[Path] = ()
    blocks: Sequence[Block] = ()
    measured: Sequence[Measured] = ()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figure(ABC):
    """A figure of a study's trials; a new kind of figure is a subclass, and needs no change elsewhere.

    Attributes:
        metric: What is drawn, and what the tables judge.
        references: Optimizers that the other arms are compared with.
        factor: The factor over whose levels the figure is drawn; empty if there is none.
    """

    has_seconds: ClassVar[bool] = False  # True if its section has the seconds per epoch of a study that is timed

    metric: str = "test/accuracy"
    references: tuple[str, ...] = ()
    factor: str = ""

    @abstractmethod
    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw the figure into the plan's report folder, as far as the evidence allows."""


@dataclass(frozen=True, kw_only=True)
class LevelFigure(Figure):
    """A metric over a factor's levels, one panel per optimizer, with arms that lack the factor as horizontal bands.

    Attributes:
        factor: The factor.
        panels: Optimizers.
    """

    factor: str = field()  # without the default of the base class
    panels: tuple[str, ...]

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `<factor>.pdf`, `.png` and `.svg`."""
        from studies.harness.report.figures import levels

        evidence = evidence.of(self.metric)
        return Extension(drawn=levels.draw(evidence, self.factor, self.panels, self.references, plan.folder))


@dataclass(frozen=True, kw_only=True)
class CurveFigure(Figure):
    """Metrics over epochs, a column each: every arm's mean over its seeds with a band.

    Attributes:
        metrics: What is drawn.
    """

    metrics: tuple[str, ...] = ("test/accuracy", "train/loss")

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `curves.pdf`, `.png` and `.svg`."""
        from studies.harness.report.figures import curves

        return Extension(drawn=curves.draw(evidence, self.metrics, plan.folder))


@dataclass(frozen=True, kw_only=True)
class DiagnosticsFigure(Figure):
    """Diagnostics over epochs, a panel each: every arm's mean over its seeds; no figure without `--diagnostics`."""

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `diagnostics.pdf`, `.png` and `.svg`."""
        from studies.harness.report.figures.curves import draw_diagnostics

        return Extension(drawn=draw_diagnostics(evidence.by_epoch, plan.folder))


@dataclass(frozen=True, kw_only=True)
class ResidualFigure(Figure):
    """The final loss of each trial over its mean residual |A - A^|_F / |A|_F, by sketch.

    The mean is over the epochs and over all layers that were preconditioned: one with p <= r is kept exactly and has
    the residual 0. It needs trials that ran with `--diagnostics`; without any there is no figure.

    Attributes:
        optimizers: Their trials are shown.
    """

    optimizers: tuple[str, ...]

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `residual.pdf`, `.png` and `.svg`, and write the points as `residual.csv`."""
        from studies.harness.kinds.study.residuals import METRICS, order, residual_table
        from studies.harness.report.figures.theory import draw_residuals

        table = residual_table(evidence.frame, self.optimizers, plan.root)
        shown = table.dropna(subset=["residual"])
        if shown.empty:
            return Extension()
        title = f"{len(shown)} of {len(table)} completed trials have diagnostics; a line is a seed\n"
        title += "Spearman's rank correlation over the ranks of a seed, mean over seeds:"
        orders = {metric: {name: order(shown, name, metric) for name in self.optimizers} for metric in METRICS}
        drawn = draw_residuals(shown, orders, title, plan.folder)
        return Extension(drawn=drawn, files={"residual.csv": table.to_csv(index=False)})
