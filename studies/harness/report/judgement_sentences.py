"""The verdict of a judgement in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from precond.counts import counted
from studies.harness.evidence.judgement import (
    BETTER,
    EQUAL,
    INCONCLUSIVE,
    WORSE,
    Combination,
    Effect,
    Verdict,
)
from studies.harness.evidence.metrics import (
    EPOCHS_TO_TARGET,
    FEW,
    SECONDS_TO_TARGET,
    join_words,
    unit,
    words,
)
from studies.harness.evidence.scale import Scale
from studies.harness.statistics.sequential import MOST

PHRASES = {BETTER: "is better than", WORSE: "is worse than", EQUAL: "is equal to"}
TIMES = {
    EPOCHS_TO_TARGET: "number of epochs to the target",
    SECONDS_TO_TARGET: "time to the target",
}
LARGE = 1e6  # larger e-values are shown as powers of ten


def sentences(verdicts: Sequence[Verdict], combine: Combination = "average") -> list[str]:
    """Return each verdict in words: the decision, the effect, the evidence and the lost pairs.

    The sentence on a single candidate also has the number of the attempt.

    Args:
        verdicts: The verdict on each candidate.
        combine: The combination of the e-values of several workloads.
    """
    attempts = [_attempt(verdict) if len(verdicts) == 1 else [] for verdict in verdicts]
    return [
        " ".join([_sentence(verdict, combine), *_losses(verdict), *_signs(verdict), *attempt])
        for verdict, attempt in zip(verdicts, attempts, strict=True)
    ]


def effect_text(effect: Effect) -> str:
    """Return an effect such as `0.540 [0.430, 0.670]` or `+0.50 [+0.20, +0.80]`."""
    if math.isnan(effect.mean):
        return "-"
    mean = float(effect.scale.effects(np.array(effect.mean)))
    if not any(map(math.isfinite, effect.interval)):
        return _value(effect.scale, mean)
    low, high = (_value(effect.scale, end) for end in interval(effect))
    return f"{_value(effect.scale, mean)} [{low}, {high}]"


def interval(effect: Effect) -> tuple[float, float]:
    """Return the ends of the confidence sequence as those of the effect."""
    low, high = sorted(effect.scale.effects(np.array(effect.interval)).tolist())
    return low, high


def noun(scale: Scale) -> str:
    """Return the name of a metric in a sentence, such as `test mse`."""
    return TIMES.get(scale.metric, words(scale.metric))


def e_text(value: float) -> str:
    """Return an e-value with three digits, rounded down: below a threshold, it stays below it."""
    return _rounded(value, math.floor)


def threshold_text(verdict: Verdict) -> str:
    """Return the e-value that decides, rounded up."""
    return _rounded(verdict.threshold, math.ceil)


def _rounded(value: float, rounding: Callable[[float], int]) -> str:
    """Return a number, which is at least 1, with three digits or more."""
    if value >= LARGE:
        return f"{value:.1e}"
    factor = 10 ** max(0, 2 - int(math.log10(value)))
    # A threshold such as 1 / 0.025 is exact only up to the rounding of floats.
    return f"{rounding(round(value * factor, 6)) / factor:,.{6 if factor == 1 else 3}g}"


def margin_text(scale: Scale) -> str:
    """Return a margin such as `5%`, `0.3 percentage points` or `0.1`, or an empty text."""
    if not scale.margin:
        return ""
    if scale.ratio:
        return f"{100 * math.expm1(scale.margin):.4g}%"
    return f"{unit(scale.metric).scale * scale.margin:.4g}{unit_text(scale)}"


def _workloads(verdict: Verdict) -> str:
    names = [effect.scale.workload for effect in verdict.effects]
    return names[0] if len(names) == 1 else counted(len(names), "workload")


def _sentence(verdict: Verdict, combine: Combination) -> str:
    if verdict.pairs:
        return _decision(verdict, combine)
    sides = f"{verdict.candidate} has not been compared with {verdict.baseline}"
    return f"{sides} on {_workloads(verdict)}, because no pair of seeds has ended yet."


def _decision(verdict: Verdict, combine: Combination) -> str:
    """Return the first sentence, with the effect on a single workload."""
    baseline, scales = verdict.baseline, [effect.scale for effect in verdict.effects]
    place, several = f"on {_workloads(verdict)}", len(scales) > 1
    effect = "" if several else f": {_effect(verdict.effects[0], baseline)}"
    pairs = counted(verdict.pairs, "paired seed") + (" on each" if several else "")
    evidence = f"e = {e_text(verdict.e)}; {threshold_text(verdict)} decides"
    evidence = f"{combine} of e-values, {evidence}" if several else evidence
    if verdict.decision == INCONCLUSIVE:
        sides = f"{verdict.candidate} against {baseline} {place} is inconclusive"
        return f"{sides} after {pairs}{effect} ({evidence}). {_expected(verdict)}"
    sides = f"{verdict.candidate} {PHRASES[verdict.decision]} {baseline}"
    if verdict.decision == EQUAL:
        margins = {margin_text(scale) for scale in scales}
        sides += f" within {margins.pop() if len(margins) == 1 else 'the margins'}"
        evidence = "the confidence sequence is within the margin"
    return f"{sides} {place}{effect} ({pairs}, {evidence})."


def _effect(effect: Effect, baseline: str) -> str:
    """Return the effect on a workload as a clause."""
    if math.isnan(effect.mean):
        return "there is no seed on which both have a result"
    name, text = noun(effect.scale), effect_text(effect)
    if effect.scale.ratio:
        return f"its {name} is {text} times that of {baseline}"
    return f"its {name} differs from that of {baseline} by {text}{unit_text(effect.scale)}"


def _value(scale: Scale, value: float) -> str:
    return f"{value:#.3g}" if scale.ratio else unit(scale.metric).show(value, signed=True)


def _expected(verdict: Verdict) -> str:
    if verdict.pairs < 2:
        return "One pair is not enough to predict how many more seeds are needed."
    if verdict.expected is None:
        return f"More than {MOST} paired seeds would be expected to decide it."
    missing = max(1, verdict.expected - verdict.pairs)
    return f"About {counted(missing, 'more seed', 'more seeds')} would be expected to decide it."


def _losses(verdict: Verdict) -> list[str]:
    """Return a sentence for each workload and each side that loses pairs, with their seeds."""
    lines = []
    for effect in verdict.effects:
        for name, loss in ((verdict.candidate, -math.inf), (verdict.baseline, math.inf)):
            seeds = [*np.array(effect.seeds)[effect.gains == loss]]
            if seeds:
                pairs = "this pair" if len(seeds) == 1 else "these pairs"
                which = _seeds(seeds, len(effect.seeds))
                place = _place(effect, verdict)
                lines.append(f"{name} {_lost(effect)}{place} with {which}, and loses {pairs}.")
    return lines


def _lost(effect: Effect) -> str:
    """Return what a trial with an infinite value did not do. A trial may miss its target."""
    return "does not reach the target" if effect.scale.metric in TIMES else "has no result"


def _seeds(seeds: Sequence[int], total: int) -> str:
    """Return a few seeds in words, or their number."""
    if len(seeds) > FEW:
        return f"{len(seeds)} of {counted(total, 'seed')}"
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {join_words([*map(str, seeds)])}"


def _place(effect: Effect, verdict: Verdict) -> str:
    """Return the workload of an effect after a noun; empty if it is the only one."""
    return f" on {effect.scale.workload}" if len(verdict.effects) > 1 else ""


def _signs(verdict: Verdict) -> list[str]:
    """Return a sentence for each workload whose gains are judged by their signs."""
    return [
        f"From seed {effect.seeds[effect.first_sign]} on, the gains{_place(effect, verdict)} are "
        f"judged by their signs, because {_reason(effect)}."
        for effect in verdict.effects
        if effect.first_sign < len(effect.gains)
    ]


def _reason(effect: Effect) -> str:
    """Return why gains are judged by their signs (`sequential.first_sign`)."""
    gains, step = effect.gains[: effect.first_sign], effect.scale.step
    if np.isinf(effect.gains[effect.first_sign]):
        return f"a trial with this seed {_lost(effect)}"
    if gains.std(ddof=1) < step:
        return "the gains vary by less than one step of the metric"
    return "the gains before it are skewed"


def _attempt(verdict: Verdict) -> list[str]:
    if verdict.attempt == 1:
        return []
    attempt = f"This is attempt {verdict.attempt} against this baseline"
    return [f"{attempt}, so e must reach {threshold_text(verdict)}."]


def unit_text(scale: Scale) -> str:
    """Return the unit of a difference with a space before it, or an empty text."""
    show = unit(scale.metric)
    return f" {show.difference}" if show.percent else ""
