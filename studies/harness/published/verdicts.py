"""A verdict on each published claim, by comparison with the measured result.

A claim is compared only with results whose resolved configuration equals that of the claim. The
label of their arm does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import precond
from studies.harness.published.papers import FAILED, UNITS, Claim
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
    """A claim with the measured result. Numbers are in the claim's unit; nan if there are none.

    Attributes:
        claim: The published cell.
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

    claim: Claim
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


def configuration(claim: Claim) -> TrialConfig:
    """Return the configuration of a claim: the workload's recipe with the protocol's settings.

    Raises:
        HyperparameterError: The protocol cannot be run.
    """
    protocol = {
        name: value
        for name, value in claim.protocol.items()
        if name not in (*_NO_SETTINGS, "workload")
    }
    known = precond.defaults(claim.optimizer)
    overrides = {name: value for name, value in protocol.items() if name in known}
    recipe = {
        name: protocol[name] for name in ("epochs", "batch_size", "schedule") if name in protocol
    }
    return resolve(
        claim.protocol["workload"],
        claim.optimizer,
        overrides,
        recipe,
        as_released=claim.as_released,
    )


def expected(claim: Claim) -> dict[str, Any]:
    """Return a claim's flat `configuration` with its target, reference and hardware, if any."""
    return flat(configuration(claim).to_dict()) | {
        n: v for n, v in claim.protocol.items() if n in _NO_SETTINGS
    }


def compare(claims: Iterable[Claim], groups: Sequence[Measured]) -> list[Comparison]:
    """Return the verdict on each claim by `RULE`, in the order of the claims."""
    return [_compare(claim, groups) for claim in claims]


def _compare(claim: Claim, groups: Sequence[Measured]) -> Comparison:
    subject = (claim.optimizer, claim.metric, claim.protocol["workload"])
    same = [
        group
        for group in groups
        if (group.optimizer, group.metric, group.settings["workload"]) == subject
    ]
    if not same:
        return Comparison(claim=claim, verdict=NOT_RUN)
    published = expected(claim)
    group, differing = min(
        ((group, _differing(group, published)) for group in same), key=lambda pair: len(pair[1])
    )
    if not differing:
        return _judge(claim, group)
    why = ", ".join(
        f"{name}={value} instead of {published[name]}" for name, value in differing.items()
    )
    summary = _summary(claim, group)
    return Comparison(
        claim=claim, verdict=OTHER_PROTOCOL, label=group.label, measured=summary, why=why
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


def _summary(claim: Claim, group: Measured) -> Summary:
    """Return the measured result in the claim's unit."""
    scale, median = UNITS[claim.unit], group.median
    if median is None:
        return summarize(scale * np.array(list(group.values.values())))
    return Summary(
        len(group.values), scale * median.median, math.nan, scale * median.low, scale * median.high
    )


def _judge(claim: Claim, group: Measured) -> Comparison:
    summary, lost = _summary(claim, group), group.failures + group.missed
    ended = len(group.values) + lost
    common = {"label": group.label, "measured": summary, "values": group.values, "failures": lost}
    result = partial(Comparison, claim=claim, **common)
    counts = {"failed": group.failures, "missed the target": group.missed}
    why = ", ".join(f"{count} of {ended} {verb}" for verb, count in counts.items() if count)
    if claim.value is None:
        if ended < 2:
            return result(verdict=NOT_RUN, why="fewer than two seeds")
        failed = claim.outcome == FAILED
        number, verb = (group.failures, "failed") if failed else (lost, "missed the target")
        outcome = REPRODUCED if number == ended else COMPATIBLE if number else DIFFERS
        return result(verdict=outcome, why=why or f"0 of {ended} {verb}")
    if len(group.values) < 2 and (ended or group.median is None):  # a cost has no seeds
        return result(verdict=DIFFERS if lost >= 2 else NOT_RUN, why=why or "fewer than two seeds")
    difference, error = summary.mean - claim.value, _standard_error(claim)
    disjoint = summary.ci_lo > claim.value + error or summary.ci_hi < claim.value - error
    verdict = REPRODUCED if _within(claim, group, summary) else DIFFERS if disjoint else COMPATIBLE
    return result(
        verdict=verdict,
        difference=difference,
        pooled=difference / _pooled_sd(claim, summary),
        why=why,
    )


def _within(claim: Claim, group: Measured, summary: Summary) -> bool:
    """Return True if the measured result equals the published value within the margin."""
    assert claim.value is not None
    if group.median is None:
        values = UNITS[claim.unit] * np.array(list(group.values.values()))
        return bool(equivalence_p(values - claim.value, claim.margin) <= ALPHA)
    return (
        claim.value - claim.margin <= summary.ci_lo and summary.ci_hi <= claim.value + claim.margin
    )


def _standard_error(claim: Claim) -> float:
    """Return the standard error of the published mean, or 0 if there is no spread.

    A spread of unknown kind is used as a standard error.
    """
    if claim.spread is None:
        return 0.0
    return (
        claim.spread / math.sqrt(claim.n) if claim.spread_kind == "sd" and claim.n else claim.spread
    )


def _pooled_sd(claim: Claim, summary: Summary) -> float:
    """Return the pooled standard deviation of the published and the measured runs.

    The variances are weighted by their degrees of freedom. Without a published spread or number of
    runs, return the SD of the measured runs. Return nan if the SD is undefined or 0.
    """
    sd = summary.sd or math.nan  # a difference cannot be divided by an SD of 0
    if claim.spread is None or claim.n is None:
        return sd
    published = claim.spread * math.sqrt(claim.n) if claim.spread_kind == "se" else claim.spread
    freedom = (summary.n - 1) + (claim.n - 1)
    variance = ((summary.n - 1) * summary.sd**2 + (claim.n - 1) * published**2) / freedom
    return math.sqrt(variance) or math.nan


def coverage(comparisons: Sequence[Comparison]) -> str:
    """Return the number of measured claims, and of the claims with each verdict, in words."""
    counts = {verdict: sum(row.verdict == verdict for row in comparisons) for verdict in VERDICTS}
    ran = sum(counts[verdict] for verdict in (REPRODUCED, COMPATIBLE, DIFFERS))
    rest = ", ".join(
        f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != NOT_RUN
    )
    text = f"{ran} of {len(comparisons)} were measured with the published protocol"
    return f"{text}; verdicts: {rest}" if rest else text
