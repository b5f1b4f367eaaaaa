"""A verdict on each published number, by comparison with the measured result.

A published number is compared only with results of the same resolved configuration. The label of
their arm does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import precond
from studies.harness.published.papers import FAILED, UNITS, Cell
from studies.harness.statistics.intervals import Summary, summarize
from studies.harness.statistics.paired import ALPHA, equivalence_p
from trainables.config import TrialConfig
from trainables.cost.intervals import Median
from trainables.workloads import resolve

VERDICTS = ("reproduced", "compatible", "differs", "not run", "protocol differs")
REPRODUCED, COMPATIBLE, DIFFERS, NOT_RUN, OTHER_PROTOCOL = VERDICTS
RULE = (
    "Verdicts. Reproduced: two one-sided t-tests (5% level each) show that the mean lies within the "
    "margin of the published value; published.csv lists the margins. Differs: the result is not "
    "reproduced, and the 95% t-interval of the mean does not overlap the published value ± its "
    "standard error. Compatible: all other results of the published protocol. Protocol differs: the "
    "settings in parentheses are not those of the paper, so the result is not compared. If the paper "
    "does not state whether its ± is a standard error or a standard deviation (SD), the interval "
    'uses it as a standard error, so that "differs" holds in both cases, and the pooled SD uses it '
    "as an SD. A published failure is reproduced if all trials fail, and differs if none fails. If "
    'fewer than two trials have a value, the verdict is "not run", or "differs" if at least two '
    "trials failed or missed the target. Costs, and times to a target that some trials miss, have no "
    "mean over seeds. Their median is compared with the published value; the result is reproduced if "
    "the 95% interval of the median lies within the margin."
)
_NOTHING = summarize([])
# Fields of a configuration that do not belong to a protocol, and the two mappings that `flat` merges.
_NO_PROTOCOL = (
    "settings",
    "hyperparameters",
    "numerics",
    "seed",
    "compile",
    "channels_last",
    "workers",
    "plugin",
    "data",
)
# Parts of a protocol that are not settings of a trial.
_NO_SETTINGS = ("target", "reference", "hardware")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The results of an arm for one metric.

    Attributes:
        label: Label of the arm in tables.
        optimizer: Name of the registered optimizer.
        settings: The flat configuration, by the names that a protocol uses: `workload`, `epochs`,
            hyperparameters, ...
        metric: Name of the metric, such as `test/accuracy`.
        values: The values of completed trials by seed, in base units (fraction, seconds, bytes,
            epochs).
        failures: Number of trials without a value because training diverged or crashed.
        missed: Number of trials that completed without reaching the target.
        median: Compared instead of the mean if there is no mean over seeds: a cost, or the
            Kaplan-Meier median of times to a target that some trials never reach.
    """

    label: str
    optimizer: str
    settings: Mapping[str, Any]
    metric: str
    values: Mapping[int, float]
    failures: int = 0
    missed: int = 0
    median: Median | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published number with the measured result, both in its unit; nan if there is none.

    Attributes:
        cell: The published number.
        verdict: One of `VERDICTS`.
        label: Label of the arm; empty if nothing was run.
        measured: Mean over seeds, or the median, with its interval.
        values: The values by seed, in base units.
        failures: Number of trials without a value.
        difference: Measured - published value.
        pooled: The difference in pooled standard deviations; nan if there is no spread.
        why: The differences in the protocol, the number of trials without a value, or the reason
            for the verdict `not run`.
    """

    cell: Cell
    verdict: str
    label: str = ""
    measured: Summary = _NOTHING
    values: Mapping[int, float] = field(default_factory=dict)
    failures: int = 0
    difference: float = math.nan
    pooled: float = math.nan
    why: str = ""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings and hyperparameters of a configuration as one flat mapping.

    Fields that do not belong to a protocol, such as the seed, are omitted.
    """
    fields = {name: value for name, value in config.items() if name not in _NO_PROTOCOL}
    return fields | dict(config.get("settings", {})) | dict(config["hyperparameters"])


def configuration(cell: Cell) -> TrialConfig:
    """Return the configuration of a published number: the workload's recipe with the protocol's settings.

    Raises:
        HyperparameterError: The protocol cannot be run.
    """
    protocol = {
        name: value
        for name, value in cell.protocol.items()
        if name not in (*_NO_SETTINGS, "workload")
    }
    known = precond.defaults(cell.optimizer)
    overrides = {name: value for name, value in protocol.items() if name in known}
    recipe = {
        name: protocol[name] for name in ("epochs", "batch_size", "schedule") if name in protocol
    }
    return resolve(
        cell.protocol["workload"],
        cell.optimizer,
        overrides,
        recipe,
        as_released=cell.as_released,
    )


def expected(cell: Cell) -> dict[str, Any]:
    """Return the flat `configuration` of a cell, with its target, reference and hardware."""
    return flat(configuration(cell).to_dict()) | {
        n: v for n, v in cell.protocol.items() if n in _NO_SETTINGS
    }


def compare(cells: Iterable[Cell], groups: Sequence[Measured]) -> list[Comparison]:
    """Return the verdict on each cell by `RULE`, in the order of the cells."""
    return [_compare(cell, groups) for cell in cells]


def _compare(cell: Cell, groups: Sequence[Measured]) -> Comparison:
    subject = (cell.optimizer, cell.metric, cell.protocol["workload"])
    same = [
        group
        for group in groups
        if (group.optimizer, group.metric, group.settings["workload"]) == subject
    ]
    if not same:
        return Comparison(cell=cell, verdict=NOT_RUN)
    published = expected(cell)
    group, differing = min(
        ((group, _differing(group, published)) for group in same), key=lambda pair: len(pair[1])
    )
    if not differing:
        return _judge(cell, group)
    why = ", ".join(
        f"{name}={value} instead of {published[name]}" for name, value in differing.items()
    )
    summary = _summary(cell, group)
    return Comparison(
        cell=cell, verdict=OTHER_PROTOCOL, label=group.label, measured=summary, why=why
    )


def _differing(group: Measured, published: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group that differ from the published ones.

    The published hardware, such as `A100`, may be only a part of the measured name.
    """
    common = {name: value for name, value in group.settings.items() if name in published}
    return {
        name: value
        for name, value in common.items()
        if not (published[name] in value if name == "hardware" else published[name] == value)
    }


def _summary(cell: Cell, group: Measured) -> Summary:
    """Return the measured result in the cell's unit."""
    scale, median = UNITS[cell.unit], group.median
    if median is None:
        return summarize(scale * np.array(list(group.values.values())))
    return Summary(
        len(group.values), scale * median.median, math.nan, scale * median.low, scale * median.high
    )


def _judge(cell: Cell, group: Measured) -> Comparison:
    summary, lost = _summary(cell, group), group.failures + group.missed
    ended = len(group.values) + lost
    common = {"label": group.label, "measured": summary, "values": group.values, "failures": lost}
    result = partial(Comparison, cell=cell, **common)
    counts = {"failed": group.failures, "missed the target": group.missed}
    why = ", ".join(f"{count} of {ended} {verb}" for verb, count in counts.items() if count)
    if cell.value is None:
        if ended < 2:
            return result(verdict=NOT_RUN, why="fewer than two seeds")
        failed = cell.outcome == FAILED
        number, verb = (group.failures, "failed") if failed else (lost, "missed the target")
        outcome = REPRODUCED if number == ended else COMPATIBLE if number else DIFFERS
        return result(verdict=outcome, why=why or f"0 of {ended} {verb}")
    if len(group.values) < 2 and (ended or group.median is None):  # a cost has no seeds
        return result(verdict=DIFFERS if lost >= 2 else NOT_RUN, why=why or "fewer than two seeds")
    difference, error = summary.mean - cell.value, _standard_error(cell)
    disjoint = summary.ci_lo > cell.value + error or summary.ci_hi < cell.value - error
    verdict = REPRODUCED if _within(cell, group, summary) else DIFFERS if disjoint else COMPATIBLE
    return result(
        verdict=verdict,
        difference=difference,
        pooled=difference / _pooled_sd(cell, summary),
        why=why,
    )


def _within(cell: Cell, group: Measured, summary: Summary) -> bool:
    """Return True if the measured result equals the published value within the margin."""
    assert cell.value is not None
    if group.median is None:
        values = UNITS[cell.unit] * np.array(list(group.values.values()))
        return bool(equivalence_p(values - cell.value, cell.margin) <= ALPHA)
    return cell.value - cell.margin <= summary.ci_lo and summary.ci_hi <= cell.value + cell.margin


def _standard_error(cell: Cell) -> float:
    """Return the standard error of the published mean, or 0 if there is no spread.

    A spread of unknown kind is used as a standard error.
    """
    if cell.spread is None:
        return 0.0
    return cell.spread / math.sqrt(cell.n) if cell.spread_kind == "sd" and cell.n else cell.spread


def _pooled_sd(cell: Cell, summary: Summary) -> float:
    """Return the pooled standard deviation of the published and the measured runs.

    The variances are weighted by their degrees of freedom. Without a published spread or number of
    runs, return the SD of the measured runs. Return nan if the SD is undefined or 0.
    """
    sd = summary.sd or math.nan  # a difference cannot be divided by an SD of 0
    if cell.spread is None or cell.n is None:
        return sd
    published = cell.spread * math.sqrt(cell.n) if cell.spread_kind == "se" else cell.spread
    freedom = (summary.n - 1) + (cell.n - 1)
    variance = ((summary.n - 1) * summary.sd**2 + (cell.n - 1) * published**2) / freedom
    return math.sqrt(variance) or math.nan


def coverage(comparisons: Sequence[Comparison]) -> str:
    """Return how many published numbers were measured, and their verdicts, in words."""
    counts = {verdict: sum(row.verdict == verdict for row in comparisons) for verdict in VERDICTS}
    ran = sum(counts[verdict] for verdict in (REPRODUCED, COMPATIBLE, DIFFERS))
    rest = ", ".join(
        f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != NOT_RUN
    )
    text = f"{ran} of {len(comparisons)} were measured with the published protocol"
    return f"{text}; verdicts: {rest}" if rest else text
