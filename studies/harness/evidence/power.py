"""The power of a study's claims before its trials are run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from precond.counts import counted
from precond.hyperparameters import HyperparameterError, is_integer
from studies.harness.design import matching
from studies.harness.design.claims import Claim
from studies.harness.evidence.gains import has_ratios, oriented
from studies.harness.evidence.metrics import claim_metric, unit, words
from studies.harness.statistics.paired import moments
from studies.harness.statistics.planning import MOST, seeds_needed, smallest_effect
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import COMPLETED, read_config, read_status, trial_folders

SIMILAR = "The table of all pairs detects smaller gains if all arms have similar noise."
LARGEST = 5.0  # SDs; a design that detects larger gains only cannot conclude anything


@dataclass(frozen=True, kw_only=True)
class Power:
    """The smallest gains that a design detects.

    A gain is detected if a claim about one pair of arms is decided in 80% of all repetitions of the
    study, after the correction. For a claim with a margin, it is the distance from the margin.

    Attributes:
        claims: The claims that can be tested.
        pairs: The number of pairs that they compare. A study without claims compares all pairs of
            arms.
        tests: The number of tests that are corrected together: that of the claims or, without
            claims, that of the pairs.
        seeds: The number of seeds.
        effect: The smallest gain in SDs of the gain over seeds; infinite below two seeds.
        gains: The smallest gain, by metric, where the SD is known.
        spreads: The SD of the gain over seeds, by metric, where it is known.
        ratios: The metrics whose gains are the logarithms of ratios (see `gains`). All other gains
            are differences.
        seeds_for_one_sd: The number of seeds that detects a gain of one SD; None above 1000.
        seeds_to_conclude: The number of seeds with which the effect is at most `LARGEST`.
    """

    claims: Sequence[str]
    pairs: int
    tests: int
    seeds: int
    effect: float
    gains: Mapping[str, float] = field(default_factory=dict)
    spreads: Mapping[str, float] = field(default_factory=dict)
    ratios: Collection[str] = ()
    seeds_for_one_sd: int | None = None
    seeds_to_conclude: int | None = None

    @property
    def conclusive(self) -> bool:
        """True if the design detects gains of at most `LARGEST` SDs."""
        return self.effect <= LARGEST


def power(
    claims: Sequence[Claim],
    labels: Collection[str],
    workload: str,
    seeds: int,
    metric: str,
    root: Path | None = None,
) -> Power:
    """Return the power of the claims on a workload.

    Args:
        claims: The claims of a study.
        labels: The labels of the arms.
        workload: The workload.
        seeds: The number of seeds.
        metric: The metric of the study's tables.
        root: The output folder, whose completed trials of the workload give the SD of a gain.

    Raises:
        HyperparameterError: The number of seeds is not an integer of at least 1.
    """
    if not is_integer(seeds) or seeds < 1:
        raise HyperparameterError(f"seeds = {seeds}: must be an integer >= 1")
    tested = [
        (claim, name)
        for claim in claims
        if matching.is_on(claim, workload)
        and (name := claim_metric(claim, metric, workload))
        and matching.pairs(claim, labels)
    ]
    pairs = sum(len(matching.pairs(claim, labels)) for claim, _ in tested)
    if not tested:
        pairs = math.comb(len(labels), 2)
    tests = len(tested) or max(pairs, 1)
    effect = smallest_effect(seeds, tests) if seeds > 1 else math.inf
    metrics = dict.fromkeys([name for _, name in tested] or [metric])
    tables = {} if root is None else _tables(root, workload, metrics)
    spreads = gain_spreads(tables)
    return Power(
        claims=[claim.text for claim, _ in tested],
        pairs=pairs,
        tests=tests,
        seeds=seeds,
        effect=effect,
        gains={name: effect * sd for name, sd in spreads.items()},
        spreads=spreads,
        ratios=[name for name in spreads if has_ratios(tables[name], name)],
        seeds_for_one_sd=seeds_needed(1.0, tests),
        seeds_to_conclude=seeds_needed(LARGEST, tests),
    )


def gain_spreads(tables: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the SD over seeds of the gain between two configurations of a workload, by metric.

    It is the median over all pairs of configurations with two or more common completed seeds. A
    metric without such a pair is omitted.

    Args:
        tables: The values `[configurations, seeds]` by metric; nan is a missing value.
    """
    spreads = {name: _median_sd(table, name) for name, table in tables.items()}
    return {name: sd for name, sd in spreads.items() if not math.isnan(sd)}


def _tables(root: Path, workload: str, metrics: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the last values of the completed trials of a workload (see `gain_spreads`)."""
    results = list(_results(root, workload))
    return {name: _table(results, name) for name in metrics}


def _results(root: Path, workload: str) -> Iterator[tuple[str, int, Mapping[str, float]]]:
    """Yield the group key, the seed and the last metrics of each completed trial of a workload."""
    for folder in trial_folders(root):
        config, status = TrialConfig.from_dict(read_config(folder)["config"]), read_status(folder)
        if config.workload == workload and status and status["status"] == COMPLETED:
            lines = read_lines(folder / "epochs.jsonl")
            yield config.group_key, config.seed, lines[-1]["metrics"]


def _table(results: Sequence[tuple[str, int, Mapping[str, float]]], metric: str) -> np.ndarray:
    """Return the values of a metric `[configurations, seeds]`."""
    seeds = {seed: i for i, seed in enumerate(sorted({seed for _, seed, _ in results}))}
    groups = {key: i for i, key in enumerate(dict.fromkeys(key for key, _, _ in results))}
    table = np.full((len(groups), len(seeds)), np.nan)
    for key, seed, values in results:
        table[groups[key], seeds[seed]] = values.get(metric, np.nan)
    return table


def _median_sd(values: np.ndarray, metric: str) -> float:
    """Return the median SD over seeds of the gains between two rows; nan without any."""
    table = oriented(values, metric)
    first, second = np.triu_indices(len(table), 1)
    n, _, sd = moments(table[first] - table[second])
    return float(np.median(sd[n > 1])) if (n > 1).any() else math.nan


def sentences(power: Power) -> list[str]:
    """Return what a design can detect."""
    if power.seeds < 2 or not power.pairs:
        return warnings(power)
    pairs = f"{counted(power.pairs, 'pair')} of arms"
    family, correction = f"{counted(len(power.claims), 'claim')} about {pairs}", "claim"
    note = "If a claim has a margin, the gain is the distance from the margin."
    if not power.claims:
        explored = f"all {pairs}" if power.pairs > 1 else pairs
        family = f"no claims about this workload, so its report only explores {explored}"
        correction, note = "pair", SIMILAR
    return [
        f"The study has {family}. After Holm's correction over {counted(power.tests, correction)}, a "
        f"paired t-test with {counted(power.seeds, 'seed')} detects a gain of {_gain(power)} with 80% power. A "
        f"gain of 1 SD needs {_seeds(power.seeds_for_one_sd)}. {note} {_source(power)}",
        *warnings(power),
    ]


def warnings(power: Power) -> list[str]:
    """Return a line if the design cannot conclude anything, otherwise an empty list."""
    if power.conclusive or not power.pairs:
        return []
    if power.seeds < 2:
        return ["Too few seeds: with one seed, no difference between arms can be tested."]
    limit = f"{power.seeds} seeds detect only gains above {power.effect:.1f} standard deviations"
    advice = f"To detect gains of {LARGEST:g} standard deviations, use --seeds"
    if power.claims:
        limit += ", so the results will probably be inconclusive"
    elif power.pairs > 1:
        limit += f" after the correction over all {power.pairs} pairs of arms"
        advice = f"State claims about fewer pairs. {SIMILAR} {advice}"
    return [f"Too few seeds: {limit}. {advice} {power.seeds_to_conclude}."]


def _gain(power: Power) -> str:
    """Return the smallest gain, such as `0.31 percentage points (3.3 SDs)` or `3.3 SDs`."""
    sds = f"{power.effect:.1f} SDs"
    values = [_size(power, metric, gain) for metric, gain in power.gains.items()]
    return f"{' or '.join(values)} ({sds})" if values else sds


def _size(power: Power, metric: str, gain: float) -> str:
    """Return a gain, such as `0.31 percentage points` or `a 20% smaller test mse`."""
    if metric in power.ratios:
        return f"a {-math.expm1(-gain):.0%} smaller {words(metric)}"
    return f"{unit(metric).show(gain)} {unit(metric).difference}"


def _source(power: Power) -> str:
    """Return the SD of a gain for each metric, or why it is not known."""
    if not power.spreads:
        return (
            "The SD is the standard deviation of the gain over seeds; it is not known, because no "
            "two configurations of this workload have two common completed seeds yet."
        )
    values = [
        f"a factor of {math.exp(sd):.2f} in the {words(metric)}"
        if metric in power.ratios
        else _size(power, metric, sd)
        for metric, sd in power.spreads.items()
    ]
    return (
        f"The SD of a gain over seeds is {' and '.join(values)}, the median over all pairs of "
        "completed configurations of this workload."
    )


def _seeds(seeds: int | None) -> str:
    return f"more than {MOST} seeds" if seeds is None else counted(seeds, "seed")
