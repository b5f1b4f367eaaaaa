"""The options that all artefacts share."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import click

FLAGS = [
    click.Option(["--smoke"], is_flag=True,
                 help="Quick test: two levels, two seeds and two epochs on digits, in OUT/smoke."),
    click.Option(["--dry-run"], is_flag=True,
                 help="Print the plan and exit; with --json, print a line of JSON for each trial to "
                 "train."),
    click.Option(["--report-only"], is_flag=True,
                 help="Train nothing; report the results in the output folder."),
    click.Option(["--seeds"], metavar="N|I,J",
                 help="Seeds: 6 means seeds 0 to 5; 3,7 means seeds 3 and 7; '3,' means only seed 3."),
    click.Option(["--workload"], metavar="NAME,...",
                 help="Train on these workloads (dataset/model) instead of the study's workload."),
    click.Option(["--epochs"], metavar="N",
                 help="Train for N epochs instead of the recipe's number."),
    click.Option(["--optimizers"], metavar="NAME,...",
                 help="Train only these optimizers of the study."),
    click.Option(["--only"], metavar="FACTOR=LEVEL,...", multiple=True,
                 help="Train only these levels of a factor (the varied hyperparameter), such as "
                 "rank=5,10."),
    click.Option(["--levels"], metavar="FACTOR=LEVEL,...", multiple=True,
                 help="Train these levels instead of the study's levels, such as rank=5,25. A tuple "
                 "is spelled with slashes: betas=0.9/0.95,0.9/0.99."),
    click.Option(["--set", "settings"], metavar="NAME=VALUE", multiple=True,
                 help="Set a hyperparameter or a training setting, such as damping=0.1, in every "
                 "configuration that has it. A tuple is spelled betas=0.9,0.95 or betas=0.9/0.95."),
    click.Option(["--max-concurrent"], metavar="N",
                 help="Largest number of concurrent trials.  [default: as many as the CPUs and GPUs "
                 "allow]"),
    click.Option(["--gpus-per-trial"], metavar="X|auto",
                 help="GPUs for each trial, such as 0.5; auto measures the share that a trial needs, "
                 "once for each workload and type of GPU.  [default: 0]"),
    click.Option(["--address"], metavar="auto|HOST:PORT",
                 help="Running Ray cluster to use.  [default: $RAY_ADDRESS; if unset, Ray is "
                 "started on this machine]"),
    click.Option(["--send-environment"], is_flag=True,
                 help="On a running cluster, run the code and the locked packages of this machine on "
                 "every node."),
    click.Option(["--tracking-uri"], metavar="none|URI",
                 help="MLflow server or database; none for no tracking.  [default: "
                 "$MLFLOW_TRACKING_URI or OUT/mlflow.db]"),
    click.Option(["--out"], metavar="DIR",
                 help="Output folder (OUT).  [default: $PRECOND_OUT or outputs]"),
    click.Option(["--data-dir"], metavar="DIR",
                 help="Folder of the datasets.  [default: $PRECOND_DATA or data]"),
    click.Option(["--download"], is_flag=True,
                 help="Download missing datasets; damaged files are not replaced."),
    click.Option(["--verify-data"], is_flag=True,
                 help="Read all data before training and compare checksums."),
    click.Option(["--plugin"], metavar="FILE|DIR", multiple=True,
                 help="Python file, or a folder of them, that registers optimizers or workloads; can "
                 "be given several times."),
    click.Option(["--workers-per-trial"], metavar="N",
                 help="Processes that train one trial together, each on a part of every batch.  "
                 "[default: 1]"),
    click.Option(["--retry"], metavar="STATUS", multiple=True,
                 help="Resume the trials that ended with this status: diverged, oom (out of memory) or "
                 "failed."),
    click.Option(["--rerun"], metavar="KEY", multiple=True,
                 help="Delete the trial with this key and train it again."),
    click.Option(["--time-budget"], metavar="TIME",
                 help="Stop after TIME, such as 90s, 30m or 2h."),
    click.Option(["--commit-every"], metavar="SECONDS",
                 help="Shortest training time between two checkpoints; 0 writes a checkpoint after "
                 "each epoch.  [default: 30]"),
    click.Option(["--diagnostics"], is_flag=True,
                 help="Measure what the preconditioners do to each layer, in trials that are not "
                 "trained yet. Results stay the same; training takes 1 to 7 % longer (the metric "
                 "diag/overhead has the exact value)."),
    click.Option(["--json", "as_json"], is_flag=True,
                 help="Print results as JSON to standard output, and all other text to standard error."),
]  # fmt: skip


def unknown_flag(name: str, params: Sequence[click.Parameter] = FLAGS) -> str:
    """Return the error message for an unknown option, with the most similar known option."""
    known = [flag for option in params for flag in option.opts if flag.startswith("--")]
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name}: unknown option." + (f" Did you mean {close[0]}?" if close else " See --help")
