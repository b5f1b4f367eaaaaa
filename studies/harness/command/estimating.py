"""The command `python -m studies estimate`."""

from __future__ import annotations

import math
from typing import Any

import click

HELP = """Estimate the end and the cost of a study.

The missing trials run on machines that can be lost at any time (spot machines), and for comparison
on machines that cannot. Options after -- are those of the study. Nothing is started.

The time of an epoch is the median of the committed epochs of the same workload and optimizer in the
output folder.
"""


def _estimate(study: str, flags: tuple[str, ...], **raw: Any) -> int:
    from studies.harness.command import spot_estimate
    from studies.harness.command.problems import guarded

    return guarded(lambda: spot_estimate.run(study, flags, raw))


class Number(click.FloatRange):
    """A number in a range. `FloatRange` alone accepts nan."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"nan is not in the range {self._describe_range()}.", param, ctx)
        return number


_AT_LEAST_ONE = click.IntRange(min=1)
_ANY = Number(0, 1e6)
COMMAND = click.Command(
    "estimate",
    callback=_estimate,
    params=[
        click.Argument(["study"], metavar="STUDY|FILE"),
        click.Argument(["flags"], nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]"),
        click.Option(["--price"], type=_ANY, required=True, metavar="USD",
                     help="Price of a GPU of a spot machine for an hour."),
        click.Option(["--on-demand-price"], type=_ANY, metavar="USD",
                     help="Price of a GPU of a machine that is not lost, to compare."),
        click.Option(["--preemption-rate"], type=_ANY, required=True, metavar="RATE",
                     help="Expected losses of a spot machine per hour, such as 0.05."),
        click.Option(["--machines"], type=_AT_LEAST_ONE, required=True, metavar="N",
                     help="Largest number of machines."),
        click.Option(["--gpus-per-machine"], type=_AT_LEAST_ONE, default=1, metavar="N",
                     show_default=True, help="GPUs of each machine."),
        click.Option(["--startup"], type=_ANY, default=300.0, metavar="SECONDS",
                     show_default=True, help="Time until a new machine trains; it is paid."),
        click.Option(["--epoch-seconds"], type=Number(1e-3, 1e6), metavar="SECONDS",
                     help="Time of an epoch, to use instead of measured epochs."),
    ],
    help=HELP,
    no_args_is_help=True,
)  # fmt: skip
