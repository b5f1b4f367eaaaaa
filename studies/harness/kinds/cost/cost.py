"""A cost study: what each optimizer costs over SGD in time and memory, measured alone on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from studies.harness.kinds.artefact import Artefact, Driver, Work

if TYPE_CHECKING:
    from studies.harness.design.options import Options
    from studies.harness.kinds.cost.plan import CostPlan
    from studies.harness.report.result import Report
    from studies.harness.tracking.view import View

_NO_TRIALS = "which times steps on synthetic images and trains no trials"


@dataclass(frozen=True, kw_only=True)
class CostStudy(Artefact):
    """A comparison of costs, as `Study` is one of results.

    Attributes:
        batch_size: Examples per step; the images are synthetic.
        optimizers: Registered names.
    """

    KIND: ClassVar[str] = "cost"
    FLAGS: ClassVar[Sequence[click.Option]] = (
        click.Option(["--batch-size"], type=int, help="Instead of the study's."),
        click.Option(["--blocks"], type=int, default=20, show_default=True, help="Interleaved blocks per optimizer."),
        click.Option(["--threads"], type=int, default=2, show_default=True, help="Of torch on the CPU."),
        click.Option(["--device"], help="[default: cuda if there is a GPU, else cpu]"),
        click.Option(["--reference"], metavar="PATH", help="A checkout of hseung88/nysact, timed in the same way."),
    )
    HELP: ClassVar[Mapping[str, str]] = {
        "smoke": "Digits, two optimizers and six blocks, in OUT/smoke.",
        "report_only": "Measure nothing; report what is there.",
        "workload": "Model and image size, instead of the study's own.",
        "optimizers": "Instead of the study's; each also as its faithful arm.",
        "settings": "For every optimizer that has it.",
    }
    REFUSED: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("seeds", "epochs", "only", "levels", "retry", "rerun", "commit_every"), _NO_TRIALS),
        **dict.fromkeys(("data_dir", "download", "verify_data", "diagnostics", "plugin", "time_budget"), _NO_TRIALS),
        **dict.fromkeys(
            ("max_concurrent", "gpus_per_trial", "address", "workers_per_trial"), "which needs a machine to itself"
        ),
    }

    workload: str
    batch_size: int
    optimizers: tuple[str, ...]

    # ------------------------------------------------------------------ the protocol of an artefact

    def plan(self, options: Options) -> list[CostPlan]:
        """Return a plan for each workload that the command names."""
        from studies.harness.kinds.cost.plan import plans

        return plans(self, options)

    def missing(self, plan: CostPlan) -> Work:
        """Return the configurations to time: all of them, since costs are measured anew."""
        from studies.harness.kinds.cost.plan import missing

        return missing(plan)

    @classmethod
    def execute(cls, plans: Sequence[CostPlan], driver: Driver) -> None:
        """Run the benchmark, in a process of its own."""
        from studies.harness.kinds.cost.plan import execute

        execute(plans)

    def report(self, plan: CostPlan) -> Report:
        """Write the report of one workload on this hardware."""
        from studies.harness.kinds.cost.report import report

        return report(plan)

    def tracking(self, plan: CostPlan) -> View:
        """Return one run with the report's numbers and files."""
        from studies.harness.kinds.cost.plan import view

        return view(plan)

    def stored(self, root: Path) -> list[CostPlan]:
        """Return nothing: `sync` sends trials and probes; a cost study is sent by its own command."""
        return []

    def state(self, root: Path) -> str:
        """Return the number of costs in an output folder."""
        return str(len(list(root.glob("cost/*/*-*.json"))))
