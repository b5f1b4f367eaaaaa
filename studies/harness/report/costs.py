"""Seconds per epoch: a table for each hardware, and the commands that measure what is missing."""

from __future__ import annotations

from collections.abc import Iterable

from studies.harness.design.arms import Trial
from studies.harness.evidence.costs import COMMAND, HOW, NOT_MEASURED, Costs, commands
from studies.harness.report.document import Block, Heading, Table, Text
from trainables.cost.intervals import Median


def blocks(costs: Costs) -> list[Block]:
    """Return every arm's seconds per epoch, and the commands for those that were measured nowhere."""
    tables: list[Block] = []
    for number, (machine, arms) in enumerate(costs.machines.items()):
        cells = {
            name: [shown(c.epoch, 2), shown(c.ratio, 3)] if c else [NOT_MEASURED, "-"]
            for name, c in arms.items()
        }
        rows, header = (
            [[name, *row] for name, row in cells.items()],
            ["arm", "s/epoch", "step / SGD's"],
        )
        caption = f"Seconds per epoch on {machine}."
        tables += [
            Text(machine, label="Hardware"),
            Table(f"seconds-{number}", header, rows, caption=caption),
        ]
    return [Heading("Seconds per epoch"), *tables, Text(HOW, note=True), *missing(costs.unmeasured)]


def missing(trials: Iterable[Trial]) -> list[Block]:
    """Return the commands for configurations that were measured on no hardware."""
    items = tuple(f"`{line}`" if line.startswith(COMMAND[0]) else line for line in commands(trials))
    words = f"{NOT_MEASURED}; on a machine that does nothing else:"
    return [Text(words, label="Costs", items=items)] if items else []


def shown(value: Median, decimals: int) -> str:
    """Return `0.95 [0.94, 0.97]`."""
    middle, low, high = (f"{x:.{decimals}f}" for x in (value.median, value.low, value.high))
    return f"{middle} [{low}, {high}]"
