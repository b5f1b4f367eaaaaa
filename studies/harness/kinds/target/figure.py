"""The figure of a study of times to a target: what has to be reached, and what is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from studies.harness.kinds.study.figures import Extension, Figure

if TYPE_CHECKING:
    from studies.harness.evidence.analysis import Evidence
    from studies.harness.kinds.artefact import Plan


@dataclass(frozen=True, kw_only=True)
class TargetFigure(Figure):
    """Curves on the way to a target: how long each arm takes to it, in epochs and in seconds.

    If the paper states a target for the workload, that is taken; otherwise the paper's rule derives one from the
    reference's runs.

    Attributes:
        reference: The optimizer that makes the target, and that times are compared with.
        share: The target is this share ...
        of: ... of the reference's accuracy after the `best` epoch of a run, or the `last`; the mean over seeds.
        rule: The place where the paper states it, in words.
        panels: What is drawn: (metric, axis), the axis `epochs` or `time`.
        metric: What has to reach the target.
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
            evidence.frame, self.metric, self.reference, share=self.share, of=self.of, rule=self.rule
        )
        seconds = costs.read(plan.trials, plan.root)
        times = targets.Times(
            evidence=evidence, metric=self.metric, reference=self.reference, target=target, costs=seconds
        )
        return Extension(
            drawn=figures.draw(times, self.panels, plan.folder),
            blocks=report.blocks(times),
            measured=targets.measured(times),
            files=report.files(times),
        )
