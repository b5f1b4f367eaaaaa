"""The command `python -m studies tune-recipe`."""

from __future__ import annotations

import copy
from typing import Any

import click

from studies.harness.command.cli import EXIT_CODES
from studies.harness.command.flags import FLAGS
from studies.harness.design.ending import COMPLETE, SOME_FAILED

OFFERED = {
    *("dry_run", "report_only", "optimizers", "max_concurrent", "gpus_per_trial", "out"),
    *("address", "send_environment"),
    *("data_dir", "download", "verify_data", "plugin", "retry", "time_budget", "commit_every"),
}
HELP = {
    "dry_run": "Print the number of trials and the estimated time, and exit.",
    "report_only": "Train nothing; write the scores of the trials in the output folder.",
    "optimizers": "Tune only these optimizers.  [default: all]",
}


def _flags() -> list[click.Parameter]:
    """Return the common options that the command offers."""
    flags = [copy.copy(flag) for flag in FLAGS if flag.name in OFFERED]
    for flag in flags:
        flag.help = HELP.get(str(flag.name), flag.help)
    return [*flags]


def _tune(workload: str, **raw: Any) -> int:
    from studies.harness.command.options import parse
    from studies.harness.command.run import run_command
    from studies.harness.kinds.tuning.tuning import RecipeTuning

    options, errors = parse({**raw, "tracking_uri": "none"})
    tuning = RecipeTuning(workload=workload)
    code = run_command([tuning], options, errors)
    if code in (COMPLETE, SOME_FAILED) and not options.dry_run:
        for plan in tuning.plan(options):
            print(f"\nThe values for the recipe of {workload}:\n")
            print((plan.folder / "recipe.py").read_text(), end="")
    return code


COMMAND = click.Command(
    "tune-recipe",
    callback=_tune,
    params=[click.Argument(["workload"]), *_flags()],
    help="Tune the hyperparameters of a workload's recipe. Each optimizer has the same budget: 16 "
    "configurations with 3 seeds each. Write the scores to OUT/tune-recipe, and print the best "
    "values.",
    epilog=EXIT_CODES,
)
