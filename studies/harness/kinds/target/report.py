"""The section of a report on times to a target, and its CSV files."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from studies.harness.evidence.costs import HOW, NOT_MEASURED, Cost
from studies.harness.evidence.metrics import number, show, words
from studies.harness.evidence.targets import Times, claim_costs
from studies.harness.report import costs as seconds
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.statistics.times import RULE, TimeToTarget

NOTE = (
    "Epochs: the Kaplan-Meier median over all trials that have ended. A trial that does not reach "
    "the target is censored at the last epoch of its arm. If fewer than half of the trials reach "
    "the target, there is no median. A dash instead of an end of an interval means that the trials "
    "do not bound this end. Time: epochs x seconds per epoch. The ends of its interval are the "
    "products of the ends of the two 95% intervals, so its coverage is at least 90%. Claims compare "
    "the epochs, or the epochs x the median seconds per epoch, of trials with the same seed; a trial "
    "that misses the target, or that fails after reaching it, has the worst result of its seed."
)
ArmCosts = Mapping[str, Cost | None]


def blocks(times: Times) -> list[Block]:
    """Return the blocks of the section: the target, and a table of times for each hardware."""
    heading, target = Heading("Time to the target"), times.target
    if target is None:
        text = f"There is no target yet, because no trial of `{times.reference}` has completed."
        return [heading, Text(text, label="Target")]
    value = show(times.metric, target.value)
    tables = {
        machine: _table(times, costs, f"time-to-target-{number}")
        for number, (machine, costs) in enumerate(_machines(times).items())
    }
    return [
        heading,
        Text(f"A {words(times.metric)} of {value} ({target.source}).", label="Target"),
        Text(_epochs(next(iter(tables.values())), value), finding=True),
        *(
            block
            for name, table in tables.items()
            for block in [*([Text(name, label="Hardware")] if name else []), table]
        ),
        Text(f"{RULE} {NOTE}{_hardware(times)} {HOW}", note=True),
        *seconds.missing(times.costs.unmeasured),
    ]


def _machines(times: Times) -> Mapping[str, ArmCosts]:
    """Return the arms' costs by hardware. Without costs, the only hardware has an empty name."""
    return times.costs.machines or {"": dict.fromkeys(times.arms)}


def _hardware(times: Times) -> str:
    """Return which hardware the seconds of the claims are measured on, if there is a choice."""
    machines, selected = times.costs.machines, claim_costs(times)
    name = next((name for name, costs in machines.items() if costs is selected), "")
    return f" Their seconds are those on {name}." if len(machines) > 1 else ""


def _epochs(table: Table, target: str) -> str:
    """Return a sentence with the median of each arm.

    For an arm without a median, it contains the number of trials that reached the target.
    """
    arms = [
        f"{arm} {f'none ({reached} trials reached it)' if median == '-' else median}"
        for arm, reached, median, *_ in table.rows
    ]
    return f"Median epochs to {target}: {', '.join(arms)}."


def _table(times: Times, costs: ArmCosts, name: str) -> Table:
    base = f"/ {times.base}"
    return Table(
        name=name,
        header=[
            "arm",
            "trials that reached it",
            "epochs",
            "95% interval",
            f"epochs {base}",
            "s/epoch",
            "time",
            f"time {base}",
        ],
        rows=[_row(times, arm, costs[arm], costs.get(times.base)) for arm in times.arms],
        caption=f"Epochs and time to {words(times.metric)} of {show(times.metric, times.value)}.",
    )


def _row(times: Times, arm: str, cost: Cost | None, base: Cost | None) -> list[str]:
    time = times.time(arm)
    ratio = time.median / times.time(times.base).median
    relative = ratio * cost.epoch.median / base.epoch.median if cost and base else math.nan
    duration = [NOT_MEASURED, "-"]
    if cost:
        duration = [seconds.shown(cost.epoch, 2), _duration(time, cost)]
    interval = f"[{_number(time.ci_lo)}, {_number(time.ci_hi)}]" if time.hits else "-"
    epochs = [f"{time.hits} of {time.n}", _number(time.median), interval, _number(ratio)]
    return [arm, *epochs, *duration, _number(relative)]


def _number(value: float) -> str:
    return number(value, ".2f")


def _duration(time: TimeToTarget, cost: Cost) -> str:
    """Return the time as `12.30 min [11.00, 14.10]`, or a dash without a median.

    The unit depends on the median.
    """
    epoch = cost.epoch
    median, low, high = time.median * epoch.median, time.ci_lo * epoch.low, time.ci_hi * epoch.high
    if math.isnan(median):
        return "-"
    size, name = next(
        (s, n) for s, n in ((3600, "h"), (60, "min"), (1, "s")) if median >= 2 * s or s == 1
    )
    return f"{median / size:.2f} {name} [{_number(low / size)}, {_number(high / size)}]"


def files(times: Times) -> dict[str, str]:
    """Return the contents of `time_to_target.csv` and `epochs_over_target.csv` by file name.

    They contain a row for each arm and hardware, and for each arm and target.
    """
    if times.target is None:
        return {}
    rows = [
        {
            "arm": arm,
            "target": times.value,
            **vars(times.time(arm)),
            **_measured(machine, costs[arm]),
        }
        for machine, costs in _machines(times).items()
        for arm in times.arms
    ]
    targets = [
        {"arm": arm, "target": target, **vars(times.time(arm, target))}
        for arm in times.arms
        for target in times.grid()
    ]
    tables = {"time_to_target.csv": rows, "epochs_over_target.csv": targets}
    return {name: pd.DataFrame(records).to_csv(index=False) for name, records in tables.items()}


def _measured(machine: str, cost: Cost | None) -> dict[str, object]:
    if cost is None:
        return {}
    return {"hardware": machine, **{f"s/epoch {k}": v for k, v in vars(cost.epoch).items()}}
