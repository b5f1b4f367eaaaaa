"""A verdict on each published number, by comparison with the measured result.

A published number is compared only with results of the same resolved configuration. The label of
their arm does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import precond
from precond.counts import counted
from studies.harness.published.difference import half_width, of_measured, of_published, p_value
from studies.harness.published.papers import FAILED, UNITS, Cell
from studies.harness.statistics.intervals import Summary, summarize
from studies.harness.statistics.paired import ALPHA
from trainables.config import TrialConfig
from trainables.cost.intervals import Median
from trainables.metrics import metric
from trainables.workloads import resolve

VERDICTS = ("reproduced", "compatible", "differs", "not run", "protocol differs")
REPRODUCED, COMPATIBLE, DIFFERS, NOT_RUN, OTHER_PROTOCOL = VERDICTS
RULE = (
    "Verdicts. The difference is the measured minus the published mean, with its 95% interval. The "
    "interval includes the spread of the measured runs and that of the published runs. If the paper "
    "states no spread, the standard deviation (SD) of the measured runs is also used for the "
    "published ones. An unknown number of published runs counts as one, or as two with a spread. If "
    "the paper does not state whether its ± is a standard error or an SD, it is used as a standard "
    "error, which gives the wider interval. Reproduced: no trial is lost, and two one-sided tests "
    "(5% level each) show that the means differ by less than the margin; published.csv lists the "
    "margins. Differs: the result is not reproduced, and the interval of the difference excludes 0; "
    "or more than half of the trials, and at least two, diverged, ran out of memory, failed or "
    "missed the target. At most 5% of true replications differ (more if the paper states no spread "
    "and its runs vary more than the measured ones). Compatible: all other results of the published "
    "protocol. Protocol differs: the settings in parentheses are not those of the paper, so the "
    "result is not compared. Not run: fewer than two trials have a value. A published failure is "
    "reproduced if all trials diverge or fail, and differs if none does. A cost has no mean over "
    "seeds: the interval of its median is multiplied by √2, because the published cost is taken to "
    "be as uncertain as the measured one. "
    "Times to a target that some trials miss are shown as a median, which is not compared."
)
_NOTHING = summarize([])
# Fields of a configuration that do not belong to a protocol, and the two mappings that `flat` merges.
_NO_PROTOCOL = {"settings", "hyperparameters", "numerics", "seed", "compile", "channels_last"}
_NO_PROTOCOL |= {"workers", "plugin", "data"}
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
        step: The distance of two neighbouring values of the metric in base units; 0 if it is
            continuous.
        failures: Number of trials that diverged, ran out of memory or failed.
        oom: Number of the failures that ran out of memory.
        missed: Number of trials that completed without reaching the target.
        reference_missed: Number of other trials that have no value because the reference did not
            reach the target under their seed.
        median: Compared instead of the mean if there is no mean over seeds: a cost, or the
            Kaplan-Meier median of times to a target that some trials never reach.
    """

    label: str
    optimizer: str
    settings: Mapping[str, Any]
    metric: str
    values: Mapping[int, float]
    step: float = 0.0
    failures: int = 0
    oom: int = 0
    missed: int = 0
    reference_missed: int = 0
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
        step: The distance of two neighbouring values.
        failures: Number of trials without a value.
        difference: Measured - published value; nan if it is not compared.
        low: Lower end of the 95% interval of the difference.
        high: Upper end of the interval.
        p: Two-sided p-value of the difference of the means; nan if it is not tested.
        p_holm: `p`, Holm-corrected over all published numbers of the artefact.
        why: The differences in the protocol, the number of trials without a value, or the reason
            for the verdict `not run`.
    """

    cell: Cell
    verdict: str
    label: str = ""
    measured: Summary = _NOTHING
    values: Mapping[int, float] = field(default_factory=dict)
    step: float = 0.0
    failures: int = 0
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
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
        values = np.array(list(group.values.values()))
        interval = summarize(values, group.step, metric(group.metric).bounds)
        ends = {"ci_lo": scale * interval.ci_lo, "ci_hi": scale * interval.ci_hi}
        return replace(summarize(scale * values), **ends)
    return Summary(
        len(group.values), scale * median.median, math.nan, scale * median.low, scale * median.high
    )


def _judge(cell: Cell, group: Measured) -> Comparison:
    lost = group.failures + group.missed
    ended = len(group.values) + lost
    result = Comparison(
        cell=cell,
        verdict=NOT_RUN,
        label=group.label,
        measured=_summary(cell, group),
        values=group.values,
        step=group.step,
        failures=lost,
        why=_lost(group, ended),
    )
    is_cost = group.median is not None and not ended
    if cell.value is None:
        return _judge_outcome(result, group, ended)
    if lost >= 2 and 2 * lost > ended:  # a median in which lost trials are the worst is infinite
        return replace(result, verdict=DIFFERS)
    if len(group.values) < 2 and not is_cost:
        return replace(result, why=result.why or "fewer than two seeds")
    if group.median is not None and not is_cost:  # some trials miss the target
        return replace(result, verdict=COMPATIBLE)
    return _judge_cost(result, cell.value) if is_cost else _judge_mean(result, cell.value, group)


def _lost(group: Measured, ended: int) -> str:
    """Return the number of trials without a value, by reason, in words."""
    counts = {"failed": group.failures, "missed the target": group.missed}
    reasons = [f"{number} of {ended} {verb}" for verb, number in counts.items() if number]
    if missed := group.reference_missed:
        seeds = counted(ended + missed, "seed")
        reasons.append(f"the reference missed the target under {missed} of {seeds}")
    return ", ".join(reasons)


def _judge_outcome(result: Comparison, group: Measured, ended: int) -> Comparison:
    """Return the verdict on a published failure, or on a target that the paper did not reach."""
    if ended < 2:
        return replace(result, why="fewer than two seeds")
    failed = result.cell.outcome == FAILED
    # Memory depends on the device, so running out of it does not reproduce a failure.
    number = group.failures - group.oom if failed else group.failures + group.missed
    verdict = REPRODUCED if number == ended else COMPATIBLE if number else DIFFERS
    verb = "failed" if failed else "missed the target"
    return replace(result, verdict=verdict, why=result.why or f"0 of {ended} {verb}")


def _judge_mean(result: Comparison, value: float, group: Measured) -> Comparison:
    summary, cell = result.measured, result.cell
    measured = of_measured(summary.sd, summary.n, UNITS[cell.unit] * group.step)
    published = of_published(cell.spread, cell.spread_kind, cell.n, measured)
    difference = summary.mean - value
    half, half_of_test = (
        float(half_width(measured, published, level)) for level in (ALPHA, 2 * ALPHA)
    )
    equal = abs(difference) + half_of_test <= cell.margin and not result.failures
    outside = abs(difference) > half
    return replace(
        result,
        verdict=REPRODUCED if equal else DIFFERS if outside else COMPATIBLE,
        difference=difference,
        low=difference - half,
        high=difference + half,
        p=p_value(difference, measured, published),
    )


def _judge_cost(result: Comparison, value: float) -> Comparison:
    summary, margin = result.measured, result.cell.margin
    difference = summary.mean - value
    low = difference - math.sqrt(2) * (summary.mean - summary.ci_lo)
    high = difference + math.sqrt(2) * (summary.ci_hi - summary.mean)
    equal = -margin <= low and high <= margin
    verdict = REPRODUCED if equal else DIFFERS if low > 0 or high < 0 else COMPATIBLE
    return replace(result, verdict=verdict, difference=difference, low=low, high=high)
