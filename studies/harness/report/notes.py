"""Notes below the table of the arms: its numbers, its tests, and where these are not reliable."""

from __future__ import annotations

import math

from precond.counts import counted
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.contrasts import beaten
from studies.harness.evidence.metrics import Unit, bounds, few, higher_is_better, unit, words
from studies.harness.evidence.status import IN_FLIGHT
from studies.harness.statistics.planning import seeds_needed

AS_RELEASED = (
    "Arms that are called as-released follow the paper's released code, or the paper if there is no "
    "code; the other arms follow this project's definitions. Only arms that are called as-released "
    "are compared with published numbers."
)
TESTS = "moderated paired t-tests by seed, Holm-corrected over all pairs of arms, 5% level"
FAILURES = (
    "A trial that diverged, ran out of memory or failed counts as the worst result in every "
    "comparison of arms."
)
BETTER = 'The column "better than" names the arms that are significantly worse than the arm.'
PLANNED_EFFECT = 2.0  # in SDs; the notes state how many seeds would detect this effect


def notes(evidence: Evidence) -> tuple[str, ...]:
    """Return the notes below the table of the arms."""
    lines = [
        _rows(evidence),
        _means(evidence),
        FAILURES if evidence.lost else "",
        power(evidence),
        bold(evidence),
        BETTER if beaten(evidence.pairs) else "",
        grid(evidence),
        widened(evidence),
        skewed(evidence),
        "The best epoch is the mean over trials of the best test value of any epoch. It is "
        "selected on the test set, so it is not a result.",
        "s/epoch is the training time of the last epoch. It cannot be compared between arms, "
        "because other trials ran on the same machine at the same time.",
    ]
    return tuple(filter(None, lines))


def _rows(evidence: Evidence) -> str:
    variants = f" {AS_RELEASED}" if any(evidence.arms["as_released"]) else ""
    return (
        "Each row is an arm: an optimizer with its settings, trained once for each seed. Each of "
        f"these trainings is a trial.{variants}"
    )


def _means(evidence: Evidence) -> str:
    sizes = list(evidence.arms["n"])
    smallest, largest = min(sizes), max(sizes)
    n = f"n = {smallest}" if smallest == largest else f"n is between {smallest} and {largest}"
    percent = " in percent" if unit(evidence.metric).percent else ""
    in_flight = ""
    if any(evidence.arms[IN_FLIGHT]):
        in_flight = " A trial in flight is being trained, or was interrupted."
    direction = "" if higher_is_better(evidence.metric) else " Smaller values are better."
    return (
        "The mean, the sample standard deviation (sd) and the 95% interval of the mean are those of "
        f"the last-epoch {words(evidence.metric)}{percent} over the n completed trials of an arm "
        f"({n}). {_scale(evidence.metric)} Trials that did not complete are counted, but no mean "
        f"includes them.{in_flight}{direction}"
    )


def _scale(metric: str) -> str:
    """Return a sentence about the scale on which the intervals of the means are computed."""
    low, high = bounds(metric)
    if math.isinf(low):
        return "The interval is Student's t-interval."
    scale, ends = ("logit", "0% to 100%") if high == 1 else ("logarithm", "0")
    where = f"within {ends}" if high == 1 else f"above {ends}"
    return (
        f"The interval is Student's t-interval of the {scale} of the mean, so it lies {where}; it is "
        "not symmetric around the mean."
    )


def testable(evidence: Evidence) -> bool:
    """Return True if at least one pair of arms can be tested."""
    return bool(evidence.pairs["p_adjusted"].notna().any())


def bold(evidence: Evidence) -> str:
    """Return a sentence about the bold means; empty if no pair of arms can be tested."""
    if not testable(evidence):
        return ""
    return (
        "A bold mean belongs to an arm that is significantly better than at least one other arm and "
        f"not significantly worse than any ({TESTS})."
    )


def power(evidence: Evidence) -> str:
    """Return sentences about the smallest detectable difference; empty without two seeds."""
    detectable, show = evidence.power, unit(evidence.metric)
    if detectable is None:
        return ""
    text = (
        f"With {detectable.n} common seeds, the smallest difference that a paired t-test detects "
        f"with 80% power after the correction over {counted(detectable.pairs, 'pair')} of arms is "
        f"{show.show(detectable.difference)} {show.difference}. This is {detectable.effect:.1f} "
        "times the standard deviation of the differences by seed, which is "
        f"{show.show(detectable.sd)} {show.difference} (pooled over pairs)."
    )
    text += (
        " The test of all pairs averages the variance of each pair with that of the others, and can "
        "detect somewhat smaller differences."
    )
    seeds = seeds_needed(PLANNED_EFFECT, detectable.pairs)
    if detectable.conclusive or seeds is None:
        return text
    return (
        f"{text} These seeds are too few to compare all pairs of arms: with {counted(seeds, 'seed')}, the "
        f"smallest difference would be {PLANNED_EFFECT:g} standard deviations."
    )


def grid(evidence: Evidence) -> str:
    """Return a sentence about the grid of the metric; empty if the metric is continuous."""
    if not evidence.step:
        return ""
    show = unit(evidence.metric)
    return (
        f"One example of the evaluated set is {show.show(evidence.step)} {show.difference}; the "
        "tests and intervals take this rounding into account."
    )


def widened(evidence: Evidence) -> str:
    """Return a sentence about the arms whose interval is extended; empty without such arms."""
    arms = list(evidence.arms.loc[evidence.arms["widened"], "arm"])
    if not arms:
        return ""
    return (
        f"The interval of {few(arms)} is extended to the exact binomial interval of the examples of "
        "all trials, because the t-interval is not reliable near 0% and 100%."
    )


def skewed(evidence: Evidence) -> str:
    """Return a warning that names the arms with a very different trial; empty without such arms."""
    if not evidence.skewed:
        return ""
    show: Unit = unit(evidence.metric)
    return (
        f"t-tests and t-intervals are not reliable for {few(evidence.skewed)}: the {show.axis} of a "
        "trial is very different from those of the arm's other trials."
    )
