"""What a study of times to a target adds to its report: the table, what is held against published numbers, the CSVs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from studies.harness.evidence import costs as exclusive
from studies.harness.evidence.costs import HOW, NOT_MEASURED, Cost
from studies.harness.evidence.reach import Reached
from studies.harness.evidence.targets import RULE, TimeToTarget
from studies.harness.kinds.study.study import Study, Trial
from studies.harness.published.verdicts import Measured, flat
from studies.harness.report.document import Block, Heading, Table, Text
from studies.harness.report.wording import unit
from trainables.cost.intervals import Median
from trainables.store import COMPLETED

NOTE = (
    "Epochs: the Kaplan-Meier median over all runs that ended; one that never hits is censored at the last epoch, so "
    "that fewer than half that hit have no median, and a dash in an interval is an end that the runs do not bound. "
    "Time: epochs x seconds per epoch, its interval from both lower and both upper ends, at least 95%."
)


@dataclass(frozen=True)
class Added:
    """What a kind of study has in its report beyond what all have.

    Attributes:
        blocks: After the results.
        measured: What is held against published numbers beside the study's own metric.
        files: Further files by name.
    """

    blocks: Sequence[Block] = ()
    measured: Sequence[Measured] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def added(study: Study, trials: Sequence[Trial], reached: Reached | None, root: Path) -> Added:
    """What belongs into a study's report: times to its target, or seconds per epoch where the artefact has them."""
    if reached is None:
        return Added(exclusive.blocks(trials, root) if study.timed else ())
    files = {"time_to_target.csv": _table(reached), "epochs_over_target.csv": _over_targets(reached)}
    contents = {name: table.to_csv(index=False) for name, table in files.items()}
    return Added(_blocks(reached), measured(reached), contents if reached.target else {})


# ---------------------------------------------------------------------- in words


def _blocks(reached: Reached) -> list[Block]:
    target, show = reached.target, unit(reached.figure.metric)
    name = reached.figure.metric.replace("/", " ")
    heading = Heading("Time to the target")
    if target is None:
        words = f"None yet: it is made of the completed runs of `{reached.figure.reference}`, and there are none."
        return [heading, Text(words, label="Target")]
    blocks: list[Block] = [heading, Text(f"{name} of {show.show(target.value)}% ({target.why}).", label="Target")]
    nothing: dict[str, Cost | None] = dict.fromkeys(reached.arms)
    tables = {
        machine: _times(reached, costs, f"time-to-target-{number}")
        for number, (machine, costs) in enumerate(reached.costs.items() or [("", nothing)])
    }
    blocks.append(Text(_epochs(next(iter(tables.values())), f"{show.show(target.value)}%"), found=True))
    for machine, table in tables.items():
        blocks += [*([Text(machine, label="Hardware")] if machine else []), table]
    blocks.append(Text(f"{RULE} {NOTE} {HOW}", note=True))
    return [*blocks, *exclusive.missing(reached.unmeasured)]


def _epochs(table: Table, target: str) -> str:
    """The table's medians in words; an arm without one has how many runs hit."""
    arms = [f"{arm} {f'- ({runs} hit)' if median == '-' else median}" for arm, runs, median, *_ in table.rows]
    return f"Median epochs to {target}: {', '.join(arms)}."


def _times(reached: Reached, costs: Mapping[str, Cost | None], name: str) -> Table:
    ours = f"/ {reached.reference}"
    header = ["arm", "runs that hit", "epochs", "95% interval", f"epochs {ours}", "s/epoch", "time", f"time {ours}"]
    base, cost = reached.time(reached.reference), costs.get(reached.reference)
    rows = []
    for arm in reached.arms:
        time, own = reached.time(arm), costs[arm]
        ratio = time.median / base.median
        relative = ratio * own.epoch.median / cost.epoch.median if own and cost else math.nan
        seconds = [exclusive.shown(own.epoch, 2), _duration(time, own)] if own else [NOT_MEASURED, "-"]
        interval = f"[{_number(time.ci_lo)}, {_number(time.ci_hi)}]" if time.hits else "-"
        told = [f"{time.hits} of {time.n}", _number(time.median), interval, _number(ratio)]
        rows.append([arm, *told, *seconds, _number(relative)])
    target = reached.target.value if reached.target else math.nan
    caption = f"Epochs and time to {reached.figure.metric.replace('/', ' ')} of {100 * target:.2f}%."
    return Table(name=name, header=header, rows=rows, caption=caption)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _duration(time: TimeToTarget, cost: Cost) -> str:
    """`12.3 min [11.0, 14.1]`, in a unit that suits the median; a dash where there is none."""
    median, low, high = (
        epochs * seconds
        for epochs, seconds in (
            (time.median, cost.epoch.median),
            (time.ci_lo, cost.epoch.low),
            (time.ci_hi, cost.epoch.high),
        )
    )
    if math.isnan(median):
        return "-"
    size, name = next((s, n) for s, n in ((3600, "h"), (60, "min"), (1, "s")) if median >= 2 * s or s == 1)
    return f"{median / size:.2f} {name} [{_number(low / size)}, {_number(high / size)}]"


# ---------------------------------------------------------------------- as data


def _table(reached: Reached) -> pd.DataFrame:
    """Every arm on every hardware, at full precision."""
    rows = []
    for machine, costs in reached.costs.items() or [("", dict.fromkeys(reached.arms))]:
        for arm in reached.arms:
            row = {"arm": arm, "target": reached.target and reached.target.value, **vars(reached.time(arm))}
            own = costs[arm]
            row |= {"hardware": machine, **{f"s/epoch {k}": v for k, v in vars(own.epoch).items()}} if own else {}
            rows.append(row)
    return pd.DataFrame(rows)


def _over_targets(reached: Reached) -> pd.DataFrame:
    """Epochs to each of a grid of targets, by arm."""
    rows = [
        {"arm": arm, "target": target, **vars(reached.time(arm, target))}
        for arm in reached.arms
        for target in reached.grid()
    ]
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- against the published


def measured(reached: Reached) -> list[Measured]:
    """Every arm's time to the target in epochs and, on each hardware, in seconds; absolute, and saved on the reference.

    A run's seconds are its epochs x the median seconds per epoch: the step's own interval is not in them.
    """
    if reached.target is None:
        return []
    found = []
    for label in reached.arms:
        found += _claimed(reached, label, "epochs", {})
        for machine, costs in reached.costs.items():
            own, base = costs[label], costs.get(reached.reference)
            if own and base:
                seconds = own.epoch.median, base.epoch.median
                found += _claimed(reached, label, "time", {"hardware": machine}, seconds)
    return found


def _claimed(
    reached: Reached, label: str, kind: str, apart: Mapping[str, str], per_epoch: tuple[float, float] = (1.0, 1.0)
) -> list[Measured]:
    """`target/<kind>` of an arm and, of all but the reference, `target/<kind>_reduction`.

    Args:
        reached: The study's times.
        label: The arm.
        kind: `epochs` or `time`.
        apart: What the protocol has beside the trials' settings.
        per_epoch: What an epoch counts for, of the arm and of the reference.
    """
    own, base = per_epoch
    time, hits, others = reached.time(label, whole=True), reached.whole(label), reached.whole(reached.reference)
    ends = (time.median, time.ci_lo, time.ci_hi)
    # Where all hit, the mean over seeds is one.
    median = None if time.hits == time.n else Median(*(own * epochs for epochs in ends))
    spent = {seed: own * epochs for seed, epochs in hits.items()}
    found = [replace(_group(reached, label, f"target/{kind}", spent, apart), median=median)]
    if label != reached.reference:
        saved = {seed: 1 - value / (base * others.get(seed, math.nan)) for seed, value in spent.items()}
        found.append(_group(reached, label, f"target/{kind}_reduction", saved, apart))
    return found


def _group(
    reached: Reached, label: str, metric: str, values: Mapping[int, float], apart: Mapping[str, str]
) -> Measured:
    """An arm's values by seed, those without one (nan) counted."""
    arm, config = reached.arms[label]
    rows = reached.frame[reached.frame["arm"] == label]
    statuses = dict(zip(rows["seed"], rows["status"], strict=True))
    without = [statuses[seed] for seed, value in values.items() if math.isnan(value)]
    target = reached.target.value if reached.target else math.nan
    return Measured(
        label=label,
        optimizer=arm.optimizer,
        settings={**flat(config.to_dict()), "target": target, "reference": reached.figure.reference, **apart},
        metric=metric,
        values={seed: value for seed, value in values.items() if not math.isnan(value)},
        failures=sum(status != COMPLETED for status in without),
        missed=without.count(COMPLETED),
    )
