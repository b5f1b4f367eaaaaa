"""The class of a cost study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import click

from studies.harness.kinds.artefact import Artefact, only_per_trial

if TYPE_CHECKING:
    import pandas as pd

_NO_TRIALS = "which times steps on synthetic images and trains no trials"


@dataclass(frozen=True, kw_only=True)
class CostStudy(Artefact):
    """A comparison of the time and memory of optimizers, relative to SGD.

    Attributes:
        batch_size: The number of images in each synthetic batch.
        optimizers: The registered optimizers to time.
    """

    KIND: ClassVar[str] = "cost"
    FLAGS: ClassVar[Sequence[click.Option]] = (
        click.Option(["--batch-size"], type=int, help="Batch size, instead of the study's."),
        click.Option(
            ["--blocks"],
            type=int,
            default=20,
            show_default=True,
            help="Measured blocks for each optimizer. In a block, its steps alternate with those "
            "of SGD.",
        ),
        click.Option(
            ["--threads"],
            type=int,
            default=2,
            show_default=True,
            help="Threads of torch on the CPU.",
        ),
        click.Option(
            ["--device"],
            help="Device to measure on.  [default: cuda if there is a GPU, otherwise cpu]",
        ),
        click.Option(
            ["--reference"],
            metavar="PATH",
            help="A checkout of hseung88/nysact, whose optimizers are timed in the same way.",
        ),
    )
    HELP: ClassVar[Mapping[str, str]] = {
        "smoke": "Time two optimizers on digits with six blocks, in OUT/smoke.",
        "dry_run": "Print the plan and exit; with --json, print a line of JSON for each benchmark.",
        "report_only": "Measure nothing; report the existing results.",
        "workload": "Model and image size, instead of the study's.",
        "optimizers": "Optimizers, instead of the study's; their as-released variants are added.",
        "settings": "Set a hyperparameter for every optimizer that has it.",
    }
    REFUSED: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("seeds", "epochs", "only", "levels", "retry", "rerun", "commit_every"), _NO_TRIALS
        ),
        **dict.fromkeys(
            ("data_dir", "download", "verify_data", "diagnostics", "plugin", "time_budget"),
            _NO_TRIALS,
        ),
        **dict.fromkeys(
            (
                "max_concurrent",
                "gpus_per_trial",
                "address",
                "send_environment",
                "workers_per_trial",
            ),
            "which uses the whole machine for one benchmark at a time",
        ),
    }

    batch_size: int
    optimizers: tuple[str, ...]

    def results(self, plan: Any) -> list[str]:
        """Return the files of the measured optimizers."""
        return [str(path.relative_to(plan.root)) for path in plan.files]

    def frame(self, plan: Any, per: Literal["trial", "epoch"]) -> pd.DataFrame:
        """Return the costs of each optimizer on this hardware (see `Artefact.frame`)."""
        only_per_trial(self, per)
        return self.module("report").frame(plan.results)
