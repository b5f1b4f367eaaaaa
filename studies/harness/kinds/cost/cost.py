"""A cost study, as a literal: time and memory of optimizers relative to SGD on an idle machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import click

from studies.harness.kinds.artefact import Artefact

_NO_TRIALS = "which times steps on synthetic images and trains no trials"


@dataclass(frozen=True, kw_only=True)
class CostStudy(Artefact):
    """A comparison of the costs of registered optimizers, on synthetic batches of `batch_size` images."""

    KIND: ClassVar[str] = "cost"
    FLAGS: ClassVar[Sequence[click.Option]] = (
        click.Option(["--batch-size"], type=int, help="Instead of the study's."),
        click.Option(
            ["--blocks"],
            type=int,
            default=20,
            show_default=True,
            help="Interleaved blocks per optimizer.",
        ),
        click.Option(
            ["--threads"], type=int, default=2, show_default=True, help="Of torch on the CPU."
        ),
        click.Option(["--device"], help="[default: cuda if there is a GPU, else cpu]"),
        click.Option(
            ["--reference"],
            metavar="PATH",
            help="A checkout of hseung88/nysact, timed in the same way.",
        ),
    )
    HELP: ClassVar[Mapping[str, str]] = {
        "smoke": "Digits, two optimizers and six blocks, in OUT/smoke.",
        "report_only": "Measure nothing; report what is there.",
        "workload": "Model and image size, instead of the study's own.",
        "optimizers": "Instead of the study's; each also as its as-released variant.",
        "settings": "For every optimizer that has it.",
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
            ("max_concurrent", "gpus_per_trial", "address", "workers_per_trial"),
            "which needs a machine to itself",
        ),
    }

    batch_size: int
    optimizers: tuple[str, ...]
