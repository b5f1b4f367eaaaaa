"""Seconds per epoch: a table for each hardware, and the commands for missing measurements."""

from __future__ import annotations

from collections.abc import Iterable

from studies.harness.design.arms import Trial
from studies.harness.evidence.costs import COMMAND, HOW, NOT_MEASURED, Costs, commands
from studies.harness.report.document import Block, Heading, Table, Text
from trainables.cost.intervals import Median


def blocks(costs: Costs) -> list[Block]:
    """Return the seconds per epoch of each arm, and the commands for missing measurements."""
    tables: list[Block] = []
    header = ["arm", "s/epoch", "time of a step / SGD's"]
    for number, (machine, arms) in enumerate(costs.machines.items()):
        rows = [
            [name, shown(cost.epoch, 2), shown(cost.ratio, 3)]
            if cost
            else [name, NOT_MEASURED, "-"]
            for name, cost in arms.items()
        ]
        caption = f"Seconds per epoch on {machine}."
        tables += [
            Text(machine, label="Hardware"),
            Table(f"seconds-{number}", header, rows, caption=caption),
        ]
    return [Heading("Seconds per epoch"), *tables, Text(HOW, note=True), *missing(costs.unmeasured)]


def missing(trials: Iterable[Trial]) -> list[Block]:
    """Return the commands for configurations that were measured on no hardware."""
    items = tuple(f"`{line}`" if line.startswith(COMMAND[0]) else line for line in commands(trials))
    text = (
        "The cost of some arms is not measured yet. Run the commands in this list on a machine on "
        "which nothing else runs:"
    )
    return [Text(text, label="Costs", items=items)] if items else []


def shown(value: Median, decimals: int) -> str:
    """Return a median with its interval, such as `0.95 [0.94, 0.97]`."""
    middle, low, high = (f"{x:.{decimals}f}" for x in (value.median, value.low, value.high))
    return f"{middle} [{low}, {high}]"
