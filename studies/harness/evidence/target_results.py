"""The times to a target as measured results, which reports compare with published numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from studies.harness.evidence.status import COMPLETED, OOM
from studies.harness.evidence.targets import Times
from studies.harness.published.verdicts import Measured, flat
from trainables.cost.intervals import Median


def measured(times: Times) -> list[Measured]:
    """Return the time to the target of each arm, to compare it with published results.

    The times are in epochs and, for each hardware, in seconds; each is also given as a reduction
    relative to the reference. The seconds of a run are its epochs times the median seconds per
    epoch, without the uncertainty of this median.
    """
    if times.target is None:
        return []
    results = []
    for label in times.arms:
        results += _results(times, label, "epochs", {})
        for machine, costs in times.costs.machines.items():
            cost, base = costs[label], costs.get(times.base)
            if cost and base:
                seconds = cost.epoch.median, base.epoch.median
                results += _results(times, label, "time", {"hardware": machine}, seconds)
    return results


def _results(
    times: Times,
    label: str,
    kind: str,
    protocol: Mapping[str, str],
    per_epoch: tuple[float, float] = (1.0, 1.0),
) -> list[Measured]:
    """Return `target/<kind>` of an arm and, except for the reference, `target/<kind>_reduction`.

    Args:
        times: The times of the study.
        label: Label of the arm.
        kind: `epochs` or `time`.
        protocol: Parts of the protocol in addition to the trials' settings.
        per_epoch: Cost of an epoch of the arm, and of the reference.
    """
    factor, base = per_epoch
    time, reference = times.time(label, whole=True), times.whole(times.base)
    # If all runs reach the target, their mean over seeds is compared. Otherwise the median is.
    median = (
        None
        if time.hits == time.n
        else Median(factor * time.median, factor * time.ci_lo, factor * time.ci_hi)
    )
    totals = {seed: factor * epochs for seed, epochs in times.whole(label).items()}
    result = _result(times, label, f"target/{kind}", totals, protocol)
    results = [replace(result, median=median, step=factor)]
    if label != times.base:
        # Where only the reference misses the target, there is no reduction and the arm misses none.
        compared = {
            seed: total
            for seed, total in totals.items()
            if math.isnan(total) or not math.isnan(reference.get(seed, math.nan))
        }
        reductions = {
            seed: 1 - total / (base * reference.get(seed, math.nan))
            for seed, total in compared.items()
        }
        result = _result(times, label, f"target/{kind}_reduction", reductions, protocol)
        missed = sum(math.isnan(reference.get(seed, 0.0)) for seed in {*totals} - {*compared})
        results.append(replace(result, reference_missed=missed))
    return results


def _result(
    times: Times, label: str, metric: str, values: Mapping[int, float], protocol: Mapping[str, str]
) -> Measured:
    """Return an arm's values by seed; seeds without a value (nan) are counted, not included."""
    arm, config = times.arms[label]
    statuses = times.evidence.frame.query("arm == @label").set_index("seed")["status"].to_dict()
    without = [statuses[seed] for seed, value in values.items() if math.isnan(value)]
    return Measured(
        label=label,
        optimizer=arm.optimizer,
        settings={
            **flat(config.to_dict()),
            "target": times.value,
            "reference": times.reference,
            **protocol,
        },
        metric=metric,
        values={seed: value for seed, value in values.items() if not math.isnan(value)},
        failures=sum(status != COMPLETED for status in without),
        oom=without.count(OOM),
        missed=without.count(COMPLETED),
    )
