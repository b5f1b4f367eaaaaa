"""The time and memory of the sides of a judgement, as sentences.

Times are those of the cost benchmark. It times the steps of a configuration in blocks that alternate
with those of SGD, while nothing else runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from studies.harness.design.arms import Trial
from studies.harness.evidence import costs
from studies.harness.evidence.costs import Cost
from studies.harness.evidence.judgement import Effect, Verdict
from studies.harness.kinds.judge.judge_plan import JudgePlan
from studies.harness.statistics.dominance import probability_better, probability_shorter


def sentences(
    plan: JudgePlan, sides: Mapping[str, Mapping[str, Trial]], verdicts: Sequence[Verdict]
) -> list[str]:
    """Return sentences on each workload, for each hardware on which both sides were timed.

    For sides that were timed on no hardware, a sentence has the command that times them.
    """
    lines: list[str] = []
    for i, scale in enumerate(plan.scales):
        measured = costs.read([*sides[scale.workload].values()], plan.root)
        for by_label in measured.machines.values():
            for verdict in verdicts:
                effect, base = verdict.effects[i], by_label[verdict.baseline]
                if (cost := by_label[verdict.candidate]) and base:
                    lines.append(_sentence(verdict, effect, cost, base))
        if measured.unmeasured:
            commands = "; ".join(costs.commands(measured.unmeasured))
            lines.append(f"To compare times on {scale.workload}, first run: {commands}")
    return lines


def _sentence(verdict: Verdict, effect: Effect, cost: Cost, base: Cost) -> str:
    names = f"{verdict.candidate} takes {cost.ratio.median / base.ratio.median:.2f} times as long"
    step = f"On {cost.hardware}, a step of {names} as one of {verdict.baseline}"
    memory = f"its peak memory is {cost.memory / base.memory:.2f} times as large"
    better = probability_better(effect.gains)
    ratios = [(c.ratio.median, c.ratio.low, c.ratio.high) for c in (cost, base)]
    both = better * probability_shorter(*ratios)
    if math.isnan(both):  # fewer than two pairs
        return f"{step}, and {memory}."
    return (
        f"{step}, and {memory}. The probability that {verdict.candidate} has both a better "
        f"{effect.scale.metric} on {effect.scale.workload} and a shorter step is {both:.2f}."
    )
