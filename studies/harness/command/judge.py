"""The command `python -m studies judge`, and the exit code of a judgement."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from studies.harness.command.cli import flags
from studies.harness.design.ending import COMPLETE, SOME_FAILED
from studies.harness.kinds.judge.judge import NAME, Judgement

if TYPE_CHECKING:
    from studies.harness.evidence.judgement import Verdict

EXIT_CODES = {"better": 0, "inconclusive": 12, "equal": 11, "worse": 10}
"""The exit code of each decision. With several candidates, the first decision in this order that any
candidate has determines the exit code."""
FORM = Judgement(candidates="", baseline="")  # without sides, for the options of the command
HELP = """Decide whether a candidate is better than a baseline. Train pairs of trials with the same
seed, one pair after another, until the results decide. The probability of a wrong decision is at most
5%, although the results are tested after each pair. Trials that OUT already contains are used.

A side is the name of an optimizer with values (nysact-s:rank=5,lr=0.01), an optimizer of a plugin,
or a file (.toml or .json) with the keys optimizer and hyperparameters. Several candidates are
separated by commas. Each judgement is recorded in OUT/judgements.jsonl. With each attempt against
the same baseline, a decision requires more evidence."""
EPILOG = """\b
Exit codes:
  0    better
  10   worse
  11   equal within the margin
  12   inconclusive, or stopped by the time budget
  1    the baseline has no result, for example because it diverged
  2    invalid command, or a baseline without a result before; nothing was started
  4    a problem with the disk, the data or Ray, or OUT is in use
  130  stopped by SIGINT
  143  stopped by SIGTERM
With several candidates, the code is 0 if any is better, else 12 if any is
inconclusive, else 11 if any is equal, else 10.

Run the same command again to resume.
"""


def _params() -> list[click.Parameter]:
    """Return the options of the command; the time budget is also called `--budget`."""
    params = flags(FORM)
    for i, flag in enumerate(params):
        if flag.name == "time_budget":
            params[i] = copy.copy(flag)
            params[i].opts = ["--budget", *flag.opts]
    sides = click.Argument(["sides"], nargs=-1, metavar="CANDIDATE[,...] [vs] BASELINE")
    return [sides, *params]


def _judge(sides: tuple[str, ...], **raw: Any) -> int:
    from studies.harness.command.options import parse
    from studies.harness.command.run import run_command
    from studies.harness.command.screen import refuse

    names = [side for side in sides if side != "vs"]
    if len(names) != 2:
        example = "python -m studies judge nysact-s sgd"
        return refuse([f"name the candidates and the baseline, for example: {example}"])
    judgement = Judgement(candidates=names[0], baseline=names[1])
    options, errors = parse(raw, judgement.FLAGS)
    code = run_command([judgement], options, errors)
    if code != COMPLETE or options.dry_run:
        return code
    from studies.harness.kinds.judge.results import results

    [plan] = judgement.plan(options)
    current = results(plan)
    return SOME_FAILED if current.problem else decision_code(current.verdicts)


def decision_code(verdicts: Sequence[Verdict]) -> int:
    """Return the exit code of a judgement. Before the tuning is complete, it is inconclusive."""
    decisions = {verdict.decision for verdict in verdicts} or {"inconclusive"}
    return next(code for name, code in EXIT_CODES.items() if name in decisions)


COMMAND = click.Command(
    NAME, callback=_judge, params=_params(), help=HELP, epilog=EPILOG, no_args_is_help=True
)
