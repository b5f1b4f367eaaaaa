"""A verdict for each published claim beside the measured result, and how many were run.

A published number is compared with the arm and the protocol that it belongs to and nothing else: a group of trials is
that arm if its resolved configuration is the one that the claim resolves to, whatever the study calls it.
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
    "Reproduced: two one-sided t tests at 5% put the mean within the margin of the published value. Otherwise it "
    "differs when the 95% t-interval of the mean and the published value +- its standard error do not overlap, and is "
    "compatible when they do. A spread of unknown kind is read as a standard error here, so that differs holds under "
    "either reading, and as a standard deviation where it is pooled. A published failure is reproduced when every "
    "trial fails, and differs when none does. Fewer than two completed seeds are not run. A cost, and a time that some "
    "runs never reach, has no mean: its median is held against the published value, reproduced when its own 95% "
    "interval lies within the margin."
)
_NOTHING = summarize([])
# The seed, versions, and how the same arithmetic is carried out.
_NO_PROTOCOL = (
    "settings",
    "hyperparameters",
    "numerics",
    "seed",
    "compile",
    "channels_last",
    "workers",
    "plugin",
)
_NO_SETTINGS = (
    "target",
    "reference",
    "hardware",
)  # parts of a protocol that are no settings of a trial


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An arm's results of one metric.

    Attributes:
        label: The arm's name in tables.
        optimizer: Registered name.
        settings: The configuration, flat, by the names that a protocol uses: `workload`, `epochs`, hyperparameters, ...
        metric: Such as `test/accuracy`.
        values: Its value by seed, of completed trials, in base units (fraction, seconds, bytes, epochs).
        failures: Trials that ended without a value because training diverged or crashed.
        missed: Trials that trained to the end and did not reach the target.
        median: Judged in place of the values' mean, if there is no mean over seeds: a cost, or a time with runs that
            never reach the target (their Kaplan-Meier median).
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
    """A claim beside the measured result; numbers are in the claim's unit, nan if there are none.

    Attributes:
        claim: The published cell.
        verdict: One of `VERDICTS`.
        label: The arm; empty if nothing was run.
        measured: Mean over seeds, or the median, with its interval.
        values: The values by seed, in base units.
        failures: Trials of it without a value.
        difference: Measured - published.
        pooled: The difference in pooled standard deviations; nan if either has none.
        why: The differences in the protocol, or the reason why there is no verdict.
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
    """Return a configuration with its settings and hyperparameters as one mapping, without the parts of no protocol."""
    fields = {name: value for name, value in config.items() if name not in _NO_PROTOCOL}
    return fields | dict(config.get("settings", {})) | dict(config["hyperparameters"])


def configuration(claim: Claim) -> TrialConfig:
    """Return the configuration of a claim: its workload's recipe in the claim's arm, with the protocol's settings.

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
    """Return a claim's `configuration`, flat, with the parts of its protocol that are no settings of a trial."""
    return flat(configuration(claim).to_dict()) | {
        n: v for n, v in claim.protocol.items() if n in _NO_SETTINGS
    }


def compare(claims: Iterable[Claim], groups: Sequence[Measured]) -> list[Comparison]:
    """Return a verdict for each claim, in their order, by `RULE`."""
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
        f"{name}={value}, published {published[name]}" for name, value in differing.items()
    )
    summary = _summary(claim, group)
    return Comparison(
        claim=claim, verdict=OTHER_PROTOCOL, label=group.label, measured=summary, why=why
    )


def _differing(group: Measured, published: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's settings that differ from the published ones; papers shorten the hardware's name: `A100`."""
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
        without, verb = (
            (group.failures, "failed") if claim.outcome == FAILED else (lost, "missed the target")
        )
        outcome = REPRODUCED if without == ended else COMPATIBLE if without else DIFFERS
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
    """Return True if the measured result is the published value within the margin."""
    assert claim.value is not None
    if group.median is None:
        values = UNITS[claim.unit] * np.array(list(group.values.values()))
        return bool(equivalence_p(values - claim.value, claim.margin) <= ALPHA)
    return (
        claim.value - claim.margin <= summary.ci_lo and summary.ci_hi <= claim.value + claim.margin
    )


def _standard_error(claim: Claim) -> float:
    """Return that of the published mean; a spread of unknown kind is taken as one. 0 without a spread."""
    if claim.spread is None:
        return 0.0
    return (
        claim.spread / math.sqrt(claim.n) if claim.spread_kind == "sd" and claim.n else claim.spread
    )


def _pooled_sd(claim: Claim, summary: Summary) -> float:
    """Return that of published and measured runs, weighted by degrees of freedom; of the measured without a spread."""
    sd = summary.sd or math.nan  # without any spread there is no unit to measure in
    if claim.spread is None or claim.n is None:
        return sd
    published = claim.spread * math.sqrt(claim.n) if claim.spread_kind == "se" else claim.spread
    freedom = (summary.n - 1) + (claim.n - 1)
    return (
        math.sqrt(((summary.n - 1) * summary.sd**2 + (claim.n - 1) * published**2) / freedom)
        or math.nan
    )


def coverage(comparisons: Sequence[Comparison]) -> str:
    """Return `41 of 60 cells run; 30 reproduced, 9 compatible, 2 differs`."""
    counts = {verdict: sum(row.verdict == verdict for row in comparisons) for verdict in VERDICTS}
    ran = sum(counts[verdict] for verdict in (REPRODUCED, COMPATIBLE, DIFFERS))
    rest = ", ".join(
        f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != NOT_RUN
    )
    return f"{ran} of {len(comparisons)} cells run" + (f"; {rest}" if rest else "")
