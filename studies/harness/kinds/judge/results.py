"""The results of a judgement, read from the trial folders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from studies.harness.design.arms import Trial
from studies.harness.evidence import arms, costs, status
from studies.harness.evidence import ledger as tables
from studies.harness.evidence.judgement import INCONCLUSIVE, Rules, Verdict, judge
from studies.harness.evidence.metrics import SECONDS_TO_TARGET, higher_is_better, on_workload
from studies.harness.evidence.scale import Scale
from studies.harness.evidence.status import LOST
from studies.harness.evidence.targets import curves
from studies.harness.kinds.judge import ledger, scales, times
from studies.harness.kinds.judge.judge_plan import JudgePlan
from studies.harness.statistics.times import hits
from trainables.store import DIVERGED, FAILED, OOM

WORDS = {DIVERGED: "diverged", OOM: "ran out of memory", FAILED: "failed"}


@dataclass(frozen=True, kw_only=True)
class Results:
    """The verdicts of a judgement, and the trials that are missing for a decision.

    Attributes:
        plan: The plan.
        sides: The trial of each side with seed 0, by workload and label; None until the sides are
            tuned.
        verdicts: The verdict on each candidate.
        problem: The reason why no decision is possible, as one line; usually empty.
        attempts_before: The number of earlier attempts against the baseline.
    """

    plan: JudgePlan
    sides: Mapping[str, Mapping[str, Trial]] | None
    verdicts: Sequence[Verdict] = ()
    problem: str = ""
    attempts_before: int = 0

    @property
    def inconclusive(self) -> list[str]:
        """The labels of the candidates without a decision."""
        return [v.candidate for v in self.verdicts if v.decision == INCONCLUSIVE]

    @property
    def pairs(self) -> int:
        """The number of complete pairs of the candidates without a decision.

        If all candidates are decided, it is the largest number of pairs.
        """
        pairs = [v.pairs for v in self.verdicts if v.decision == INCONCLUSIVE]
        return min(pairs) if pairs else max((v.pairs for v in self.verdicts), default=0)

    @property
    def done(self) -> bool:
        """True if all candidates are decided or have all seeds, or if there is a problem."""
        if self.problem:
            return True
        return self.sides is not None and not self.needed(1)

    def needed(self, ahead: int) -> list[Trial]:
        """Return the trials of the next pairs that have not ended; none for decided candidates.

        Args:
            ahead: The number of pairs, from the first that is not complete.
        """
        if self.sides is None or self.problem:
            return []
        seeds = self.plan.seeds[self.pairs : self.pairs + ahead]
        labels = [self.plan.baseline.label, *self.inconclusive] if self.inconclusive else []
        chosen = {
            workload: {label: by_label[label] for label in labels}
            for workload, by_label in self.sides.items()
        }
        return status.missing(self.plan.pairs(chosen, seeds), self.plan.root)

    @property
    def notes(self) -> list[str]:
        """The sentences on the attempts and on the values of the sides."""
        lines = [ledger.sentence(self.attempts_before, self.plan)]
        if not self.plan.tuning:
            untuned = [arm.label for arm in self.plan.arms if not arm.factors]
            if untuned:
                lines.append(f"The values of {' and '.join(untuned)} are those of the recipe.")
            return lines
        for workload, by_label in (self.sides or {}).items():
            for label, trial in by_label.items():
                fixed = next(arm for arm in self.plan.arms if arm.label == label).overrides
                values = [f"{k}={v:g}" for k, v in trial.arm.overrides.items() if k not in fixed]
                budget = len(self.plan.tuning[workload][label])
                lines.append(
                    f"{label} on {workload}: {', '.join(values)} (best of {budget} trials)."
                )
        return lines

    @property
    def costs(self) -> list[str]:
        """The sentences on the times and the memory of the sides."""
        return times.sentences(self.plan, self.sides, self.verdicts) if self.sides else []


def results(plan: JudgePlan) -> Results:
    """Return the results of a judgement; nothing is written.

    Raises:
        HyperparameterError: The tuning of a side has no winner.
    """
    sides, before = plan.sides(), ledger.attempts_before(plan)
    if sides is None:
        return Results(plan=plan, sides=None, attempts_before=before)
    measured = {scale: _measured(plan, scale, sides[scale.workload]) for scale in plan.scales}
    lost = {scale: _first_lost(frame, plan.baseline.label) for scale, frame in measured.items()}
    usable = min((number for number, _ in lost.values()), default=0)
    rules = Rules(attempts_before=before, combine=plan.combine)
    values = {
        scale: _values(plan, scale, sides[scale.workload], frame).iloc[:usable]
        for scale, frame in measured.items()
    }
    verdicts = judge(values, plan.labels, plan.baseline.label, rules)
    current = Results(plan=plan, sides=sides, verdicts=verdicts, attempts_before=before)
    problems = [
        f"{plan.baseline.label} {reason} on {scale.workload}, so it cannot be the baseline: "
        "choose other values for it"
        for scale, (number, reason) in lost.items()
        if reason and number == usable
    ] + [line for scale, table in values.items() if (line := _not_positive(scale, table))]
    waiting = bool(current.inconclusive) and current.pairs == usable
    return replace(current, problem=problems[0]) if problems and waiting else current


def _measured(plan: JudgePlan, scale: Scale, by_label: Mapping[str, Trial]) -> pd.DataFrame:
    """Return a row for each planned trial on a workload (`ledger.frame`)."""
    return tables.frame(plan.pairs({scale.workload: by_label}, plan.seeds), plan.root)


def _first_lost(frame: pd.DataFrame, baseline: str) -> tuple[int, str]:
    """Return the number of pairs before the first failed trial of the baseline, and a description.

    The description is "diverged with seed 3", for example. Without a failed trial, the number is
    that of all pairs, and the description is empty.
    """
    rows = frame.query("arm == @baseline").to_dict("records")
    for number, row in enumerate(rows):
        if row["status"] in LOST:
            return number, f"{WORDS[row['status']]} with seed {row['seed']}"
    return len(rows), ""


def _values(
    plan: JudgePlan, scale: Scale, by_label: Mapping[str, Trial], frame: pd.DataFrame
) -> pd.DataFrame:
    """Return the values of the metric: a row for each seed in order, a column for each side."""
    if scale.metric not in scales.TIMES:
        return arms.by_seed(frame, scale.metric).reindex([*plan.seeds])
    assert plan.target is not None
    quality = on_workload("test/headline", scale.workload)
    trials = plan.pairs({scale.workload: by_label}, plan.seeds)
    runs = tables.frame(trials, plan.root, per="epoch")
    reached = curves(frame, runs, quality) if quality in runs else {}
    higher, columns = higher_is_better(quality), {}
    for label in by_label:
        epochs = hits(reached.get(label, {}), plan.target, higher)
        columns[label] = pd.Series(epochs, dtype=float).fillna(math.inf).reindex([*plan.seeds])
    table = pd.DataFrame(columns)
    return table * _seconds(plan, by_label) if scale.metric == SECONDS_TO_TARGET else table


def _seconds(plan: JudgePlan, by_label: Mapping[str, Trial]) -> pd.Series:
    """Return the seconds of an epoch of each side, on the first hardware that has timed all sides."""
    machines = costs.read([*by_label.values()], plan.root).machines.values()
    measured = next(sides for sides in machines if all(sides.values()))
    return pd.Series({label: cost.epoch.median for label, cost in measured.items() if cost})


def _not_positive(scale: Scale, table: pd.DataFrame) -> str:
    """Return a line if values that are compared by their ratios are not positive."""
    if not scale.ratio or not (np.asarray(table, dtype=float) <= 0).any():
        return ""
    return f"{scale.metric} on {scale.workload} is not positive: its ratios cannot be compared"
