"""The class of the time-to-target figure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from studies.harness.evidence.metrics import EPOCHS_TO_TARGET, SECONDS_TO_TARGET, on_workload
from studies.harness.kinds.study.figures import Extension, Figure, unknown_metrics

if TYPE_CHECKING:
    import pandas as pd

    from studies.harness.evidence.analysis import Evidence
    from studies.harness.evidence.targets import Times
    from studies.harness.kinds.artefact import Plan


@dataclass(frozen=True, kw_only=True)
class TargetFigure(Figure):
    """Curves of a metric, and the epochs and seconds that each arm needs to reach a target.

    The target is the paper's target for the workload. If the paper has no target for it, the target
    is `share` times the mean of the reference's trials. If smaller values of the metric are better,
    it is this mean divided by `share`.

    Attributes:
        reference: The optimizer that defines the target and is the baseline of the times.
        share: The target relative to the result of the reference.
        of: The epoch that gives the result of a reference trial: its `best` or its `last` epoch.
        rule: The paper's rule for the target, in words.
        panels: The metric and the horizontal axis of each panel.
    """

    has_seconds: ClassVar[bool] = True
    DERIVED: ClassVar[Sequence[str]] = (EPOCHS_TO_TARGET, SECONDS_TO_TARGET)

    reference: str
    share: float
    of: Literal["best", "last"]
    rule: str
    panels: tuple[tuple[str, Literal["epochs", "time"]], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", (self.reference,))

    def problems(self, optimizers: Collection[str], factors: Collection[str]) -> list[str]:
        """Return a line for each name that is unknown (see `Figure.problems`)."""
        metrics = [metric for metric, _ in self.panels]
        return super().problems(optimizers, factors) + unknown_metrics("panels", metrics)

    def on(self, workload: str) -> Self:
        """Return the figure with the names of its metrics on a workload (see `Figure.on`)."""
        panels = tuple((on_workload(metric, workload), axis) for metric, axis in self.panels)
        return replace(super().on(workload), panels=panels)

    def claim_values(self, plan: Plan, evidence: Evidence) -> Mapping[str, pd.DataFrame]:
        """Return the epochs and the seconds to the target (see `Figure.claim_values`)."""
        from studies.harness.evidence import targets

        return targets.claim_values(self._times(plan, evidence))

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `time_to_target` and `epochs_over_target` as `.pdf`, `.png` and `.svg`.

        There is one `time_to_target` figure for each hardware.
        """
        from studies.harness.evidence import target_results
        from studies.harness.kinds.target import report
        from studies.harness.report.figures import targets as figures

        times = self._times(plan, evidence)
        drawn = figures.draw(times, self.panels, plan.folder)
        return Extension(
            drawn=drawn,
            blocks=report.blocks(times),
            measured=target_results.measured(times),
            files=report.files(times),
        )

    def _times(self, plan: Plan, evidence: Evidence) -> Times:
        """Return the times that each arm needs to reach the target."""
        from studies.harness.evidence import costs, targets

        target = targets.published_target(plan.artefact, plan.workload)
        if target is None:
            target = targets.target_of_runs(
                evidence.frame,
                self.metric,
                self.reference,
                share=self.share,
                of=self.of,
                rule=self.rule,
            )
        seconds = costs.read(plan.trials, plan.root)
        return targets.Times(
            evidence=evidence,
            metric=self.metric,
            reference=self.reference,
            target=target,
            costs=seconds,
        )
