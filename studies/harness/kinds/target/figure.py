"""The figure of a study of times to a target, as a literal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from studies.harness.kinds.study.figures import Extension, Figure

if TYPE_CHECKING:
    from studies.harness.evidence.analysis import Evidence
    from studies.harness.kinds.artefact import Plan


@dataclass(frozen=True, kw_only=True)
class TargetFigure(Figure):
    """Curves of a metric up to a target, with the epochs and seconds that each arm needs to reach it.

    The target is the one that the paper states for the workload. If there is none, it is `share` times the mean
    accuracy of the reference's runs.

    Attributes:
        reference: The optimizer that defines the target and is the baseline of the times.
        share: Factor of the reference's accuracy.
        of: The epoch of a run whose accuracy counts, `best` or `last`.
        rule: The place in the paper that states the rule, in words.
        panels: (metric, axis) of each panel; the axis is `epochs` or `time`.
    """

    has_seconds: ClassVar[bool] = True

    reference: str
    share: float
    of: Literal["best", "last"]
    rule: str
    panels: tuple[tuple[str, Literal["epochs", "time"]], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", (self.reference,))

    def extend(self, plan: Plan, evidence: Evidence) -> Extension:
        """Draw `time_to_target` (one for each hardware) and `epochs_over_target`, each `.pdf`, `.png` and `.svg`."""
        from studies.harness.evidence import costs, targets
        from studies.harness.kinds.target import report
        from studies.harness.report.figures import targets as figures

        target = targets.published_target(plan.artefact, plan.workload) or targets.target_of_runs(
            evidence.frame,
            self.metric,
            self.reference,
            share=self.share,
            of=self.of,
            rule=self.rule,
        )
        seconds = costs.read(plan.trials, plan.root)
        times = targets.Times(
            evidence=evidence,
            metric=self.metric,
            reference=self.reference,
            target=target,
            costs=seconds,
        )
        drawn = figures.draw(times, self.panels, plan.folder)
        return Extension(drawn, report.blocks(times), targets.measured(times), report.files(times))
