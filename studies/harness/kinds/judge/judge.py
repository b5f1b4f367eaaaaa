"""The class of a judgement, and its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import click

from studies.harness.kinds.artefact import Artefact

if TYPE_CHECKING:
    from pathlib import Path

    from studies.harness.design.result import Report
    from studies.harness.kinds.artefact import Plan

NAME = "judge"
NO_ARMS = "which compares sides, whose values are written as in sgd:lr=0.1"


@dataclass(frozen=True, kw_only=True)
class Judgement(Artefact):
    """The comparison of one or more candidates with a baseline. It has no claims.

    Attributes:
        candidates: The candidates as on the command line, such as `nysact-s:rank=5,adamw`.
        baseline: The baseline, such as `sgd`.
    """

    KIND: ClassVar[str] = "judgement"
    FLAGS: ClassVar[Sequence[click.Option]] = (
        click.Option(
            ["--margin"],
            metavar="X",
            help="Largest difference that does not matter: 5% for errors and times, 0.3pp for "
            "percentages, a number for other metrics.  [default: 0, never equal]",
        ),
        click.Option(
            ["--max-seeds"], metavar="N", help="Largest number of paired seeds.  [default: 30]"
        ),
        click.Option(
            ["--metric"],
            metavar="NAME",
            help="test/loss, train/loss, epochs_to_target, time_to_target, ...  [default: the "
            "workload's test metric]",
        ),
        click.Option(
            ["--target"],
            metavar="X",
            help="Value of the test metric to reach, for epochs_to_target and time_to_target.",
        ),
        click.Option(
            ["--combine"],
            metavar="average|product",
            help="Combination of the e-values of several workloads: average, or product if their "
            "gains are independent.  [default: average]",
        ),
        click.Option(
            ["--tune"],
            metavar="N",
            help="Tune each side with N configurations on a held-out tenth of the training set.",
        ),
        click.Option(["--first-seed"], metavar="N", help="First seed.  [default: 0]"),
    )
    HELP: ClassVar[Mapping[str, str]] = {
        "dry_run": "Print the plan and exit; with --json, print a line of JSON for each trial that "
        "may be trained.",
        "report_only": "Train nothing; judge the results in the output folder.",
        "workload": "Judge on these workloads together.",
        "time_budget": "Stop after TIME, such as 90s, 30m or 2h.",
    }
    REFUSED: ClassVar[Mapping[str, str]] = {
        "smoke": "which has no quick test; use --max-seeds 2 --epochs 3",
        "seeds": "which adds seeds until it can decide; use --max-seeds and --first-seed",
        **dict.fromkeys(("optimizers", "only", "levels", "settings"), NO_ARMS),
        "retry": "because a repeated trial would change a decision",
        "rerun": "because a repeated trial would change a decision",
    }

    name: str = NAME
    title: str = "Judgement"
    candidates: str
    baseline: str

    def results(self, plan: Plan) -> list[str]:
        """Return the status files of the trials that have ended."""
        from studies.harness.evidence.status import status_files

        return status_files(plan.trials, plan.root)

    def inputs(self, plan: Any) -> list[Path]:
        """Return the trial folders and the files of the cost benchmark."""
        return self.module("plan").inputs(plan)

    def reported(self, plan: Any) -> Any:
        """Return the plan with the trials that have begun."""
        return self.module("plan").reported(plan)

    def report(self, plan: Any) -> Report:
        """Write the report, and record the judgement and its verdicts in the ledger."""
        ledger = self.module("ledger")
        ledger.begin(plan)
        report = self.module("report").report(plan)
        current = self.module("results").results(plan)
        ledger.end(plan, current.verdicts, current.problem)
        return report

    def program(self, workload: str) -> list[str]:
        """Return the command of the judgement."""
        place = [] if workload == self.workload else ["--workload", workload]
        return ["-m", "studies", NAME, self.candidates, self.baseline, *place]

    def next_steps(self, plan: Any) -> list[tuple[str, str]]:
        """Return the command that adds seeds, if all seeds were used without a decision."""
        current = self.module("results").results(plan)
        if not current.inconclusive or current.problem or current.pairs < len(plan.seeds):
            return []
        number = min(2 * len(plan.seeds), self.module("plan").seeds_from(plan.seeds[0]))
        if number == len(plan.seeds):
            return []
        command = f"the same command with --max-seeds {number}"
        return [(command, "adds pairs of seeds; the error of the decision stays the same")]
