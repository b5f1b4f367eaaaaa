"""Published beside measured: a verdict for each claim, and how many were run.

A published number is held against the arm and the protocol that it belongs to and nothing else: a group of trials is
that arm when its resolved configuration is the one that the claim resolves to, whatever the study calls it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

import precond
from studies.harness.evidence.contrasts import ALPHA, equivalence_p
from studies.harness.evidence.statistics import Summary, completed, summarize
from studies.harness.kinds.study.study import Trial
from studies.harness.published.papers import FAILED, UNITS, Claim
from trainables.config import TrialConfig
from trainables.cost.intervals import Median
from trainables.store import DIVERGED
from trainables.store import FAILED as CRASHED
from trainables.workloads import resolve

REPRODUCED, COMPATIBLE, DIFFERS, NOT_RUN, OTHER_PROTOCOL = VERDICTS = (
    "reproduced",
    "compatible",
    "differs",
    "not run",
    "protocol differs",
)
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
_NO_PROTOCOL = ("settings", "hyperparameters", "numerics", "seed", "compile", "channels_last", "workers", "plugin")
_APART = ("target", "reference", "hardware")  # parts of a protocol that are no settings of a trial


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One arm's results of one metric.

    Attributes:
        label: As the tables name it.
        optimizer: Registered name.
        settings: What was run, flat, by the names that a protocol uses: `workload`, `epochs`, hyperparameters, ...
        metric: Such as `test/accuracy`.
        values: Its value by seed, of completed trials, in base units (fraction, seconds, bytes, epochs).
        failures: Trials that ended without a value because training diverged or crashed.
        missed: Trials that trained to the end and did not reach the target.
        median: What is judged in place of the values' mean, where it is no mean over seeds: a cost, or a time with
            runs that never reach the target (their Kaplan-Meier median).
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
    """A claim beside what was measured; numbers are in the claim's unit, nan where there are none.

    Attributes:
        claim: What was published.
        verdict: One of `VERDICTS`.
        label: The arm; empty where nothing was run.
        measured: Mean over seeds with its interval, or the median with its own.
        values: The values behind it by seed, in base units.
        failures: Trials of it without a value.
        difference: Measured - published.
        pooled: The difference in pooled standard deviations; nan where either has none.
        why: What differs in the protocol, or why nothing can be said.
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


def measured(trials: Sequence[Trial], frame: pd.DataFrame, metric: str) -> list[Measured]:
    """A study's groups as `compare` takes them.

    Args:
        trials: The plan.
        frame: Its `ledger.frame(..., per="trial")`.
        metric: The column.
    """
    values, groups = completed(frame, metric), {}
    for trial in trials:
        groups.setdefault(trial.config.group_key, trial)
    found = []
    for key, part in frame.groupby("group_key", sort=False):
        arm, config = groups[key]
        rows = part.join(values.rename("value")).dropna(subset=["value"])
        found.append(
            Measured(
                label=arm.label,
                optimizer=arm.optimizer,
                settings=flat(config.to_dict()),
                metric=metric,
                values=dict(zip(rows["seed"], rows["value"], strict=True)),
                failures=sum(status in (DIVERGED, CRASHED) for status in part["status"]),
            )
        )
    return found


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its settings and hyperparameters as one mapping, without what is no protocol."""
    own = {name: value for name, value in config.items() if name not in _NO_PROTOCOL}
    return own | dict(config.get("settings", {})) | dict(config["hyperparameters"])


def configuration(claim: Claim) -> TrialConfig:
    """What a claim's protocol resolves to: its workload's recipe in the claim's arm, with what the protocol states.

    Raises:
        HyperparameterError: The protocol is not one that can be run.
    """
    protocol = {name: value for name, value in claim.protocol.items() if name not in (*_APART, "workload")}
    own = precond.defaults(claim.optimizer)
    overrides = {name: value for name, value in protocol.items() if name in own}
    recipe = {name: protocol[name] for name in ("epochs", "batch_size", "schedule") if name in protocol}
    return resolve(claim.protocol["workload"], claim.optimizer, overrides, recipe, faithful=claim.faithful)


def expected(claim: Claim) -> dict[str, Any]:
    """A claim's `configuration`, flat, with the parts of its protocol that are no settings of a trial."""
    apart = {name: claim.protocol[name] for name in _APART if name in claim.protocol}
    return flat(configuration(claim).to_dict()) | apart


def compare(claims: Iterable[Claim], groups: Sequence[Measured]) -> list[Comparison]:
    """A verdict for each claim, in their order, by `RULE`."""
    return [_compare(claim, groups) for claim in claims]


def _compare(claim: Claim, groups: Sequence[Measured]) -> Comparison:
    workload, wanted = claim.protocol["workload"], None
    near: tuple[Measured, dict[str, Any]] | None = None
    for group in groups:
        if (group.optimizer, group.metric, group.settings["workload"]) != (claim.optimizer, claim.metric, workload):
            continue
        wanted = wanted or expected(claim)
        held = {name: v for name, v in group.settings.items() if name in wanted and not _same(name, v, wanted[name])}
        if near is None or len(held) < len(near[1]):
            near = group, held
    if near is None or wanted is None:
        return Comparison(claim=claim, verdict=NOT_RUN)
    group, held = near
    if held:
        why = ", ".join(f"{name}={v}, published {wanted[name]}" for name, v in held.items())
        return Comparison(
            claim=claim, verdict=OTHER_PROTOCOL, label=group.label, measured=_summary(claim, group), why=why
        )
    return _judge(claim, group)


def _same(name: str, ours: Any, published: Any) -> bool:
    """Papers shorten the hardware's name: `A100`."""
    return published in ours if name == "hardware" else ours == published


def _summary(claim: Claim, group: Measured) -> Summary:
    """What was measured, in the claim's unit."""
    scale = UNITS[claim.unit]
    if group.median is None:
        return summarize(scale * np.array(list(group.values.values())))
    middle, low, high = (scale * value for value in (group.median.median, group.median.low, group.median.high))
    return Summary(len(group.values), middle, math.nan, low, high)


def _judge(claim: Claim, group: Measured) -> Comparison:
    summary, ended = _summary(claim, group), len(group.values) + group.failures + group.missed
    common = {"claim": claim, "label": group.label, "measured": summary, "values": group.values}
    common["failures"] = group.failures + group.missed
    counts = {"failed": group.failures, "missed the target": group.missed}
    told = ", ".join(f"{count} of {ended} {verb}" for verb, count in counts.items() if count)
    if claim.value is None:
        if ended < 2:
            return Comparison(**common, verdict=NOT_RUN, why="fewer than two seeds")
        without = group.failures if claim.outcome == FAILED else group.failures + group.missed
        outcome = REPRODUCED if without == ended else COMPATIBLE if without else DIFFERS
        return Comparison(**common, verdict=outcome, why=told or f"0 of {ended} {_verb(claim)}")
    if len(group.values) < 2 and (ended or group.median is None):  # a cost has no seeds at all
        verdict = DIFFERS if group.failures + group.missed >= 2 else NOT_RUN
        return Comparison(**common, verdict=verdict, why=told or "fewer than two seeds")
    difference = summary.mean - claim.value
    error = _standard_error(claim)
    same = _within(claim, group, summary)
    apart = summary.ci_lo > claim.value + error or summary.ci_hi < claim.value - error
    verdict = REPRODUCED if same else DIFFERS if apart else COMPATIBLE
    return Comparison(
        **common, verdict=verdict, difference=difference, pooled=difference / _pooled_sd(claim, summary), why=told
    )


def _within(claim: Claim, group: Measured, summary: Summary) -> bool:
    """Whether what was measured is the published value within the margin."""
    assert claim.value is not None
    if group.median is None:
        values = UNITS[claim.unit] * np.array(list(group.values.values()))
        return bool(equivalence_p(values - claim.value, claim.margin) <= ALPHA)
    return claim.value - claim.margin <= summary.ci_lo and summary.ci_hi <= claim.value + claim.margin


def _verb(claim: Claim) -> str:
    return "failed" if claim.outcome == FAILED else "missed the target"


def _standard_error(claim: Claim) -> float:
    """Of the published mean; a spread of unknown kind is taken as one. 0 without a spread."""
    if claim.spread is None:
        return 0.0
    return claim.spread / math.sqrt(claim.n) if claim.spread_kind == "sd" and claim.n else claim.spread


def _pooled_sd(claim: Claim, summary: Summary) -> float:
    """Over the published and the measured runs, weighted by degrees of freedom; the measured alone without a spread."""
    sd = summary.sd or math.nan  # no spread at all is no unit to measure in
    if claim.spread is None or claim.n is None:
        return sd
    published = claim.spread * math.sqrt(claim.n) if claim.spread_kind == "se" else claim.spread
    freedom = (summary.n - 1) + (claim.n - 1)
    return math.sqrt(((summary.n - 1) * summary.sd**2 + (claim.n - 1) * published**2) / freedom) or math.nan


def coverage(comparisons: Sequence[Comparison]) -> str:
    """`41 of 60 cells run; 30 reproduced, 9 compatible, 2 differs`."""
    counts = {verdict: sum(row.verdict == verdict for row in comparisons) for verdict in VERDICTS}
    ran = sum(counts[verdict] for verdict in (REPRODUCED, COMPATIBLE, DIFFERS))
    rest = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != NOT_RUN)
    return f"{ran} of {len(comparisons)} cells run" + (f"; {rest}" if rest else "")
