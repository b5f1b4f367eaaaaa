"""The command `python -m precond audit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from precond.auditing.compare import STEPS, TOLERANCE, audit
from precond.auditing.sides import AuditError
from precond.hyperparameters import HyperparameterError

EQUAL, DIFFERENT, INVALID = 0, 1, 2  # exit codes


def main(arguments: Sequence[str]) -> int:
    """Compare two optimizers, print the report, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = audit(options.a, options.b, steps=options.steps, tolerance=options.tolerance)
    except (AuditError, HyperparameterError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return INVALID
    print(result.json() if options.json else result)
    return EQUAL if result.equal else DIFFERENT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m precond audit",
        description="Run two optimizers on the same weights and gradients. Print the first step and "
        "the tensor in which they differ, and the conventions that explain the difference.",
        epilog="An optimizer is a registered name, a class of torch.optim, or a class or function "
        "in a file, with values: nysact-s:rank=5,lr=0.01, torch.optim.AdamW:lr=0.01, "
        "my_file.py:MyOptimizer:lr=0.1. The exit code is 0 if the two are equal, 1 if they "
        "differ, and 2 if an argument is not valid or an update is not finite.",
    )
    parser.add_argument("a", metavar="A", help="an optimizer")
    parser.add_argument("b", metavar="B", help="the other optimizer")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps (default {STEPS})")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help=f"largest relative difference that counts as rounding (default {TOLERANCE:g})",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser
