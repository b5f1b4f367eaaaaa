"""The ledger of judgements: a file with a record of each judgement, also of the stopped ones.

    outputs/judgements.jsonl
        begun          the digest of the judgement, its sides and rules, and the number of earlier
                       attempts against the same baseline; written before its first decision
        ended          the digest of the judgement, and its verdicts; written if they have changed

Each candidate of a judgement is an attempt. Two attempts are against the same baseline if their
baselines have the same optimizer, whatever its values, and if their judgements share a workload.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precond.counts import counted
from studies.harness.kinds.judge.judge_plan import JudgePlan
from trainables.files import append_lines, read_lines, repair_tail
from trainables.recipes.tuning import SEEDS
from trainables.store import StoreError

if TYPE_CHECKING:
    from studies.harness.design.arms import Arm
    from studies.harness.evidence.judgement import Verdict

NAME = "judgements.jsonl"
BEGUN, ENDED = "begun", "ended"
DAMAGED = "is damaged: restore it from a copy, or rename it, so that its attempts are not counted"


def describe(plan: JudgePlan, first_seed: int, tune: int, margin: str) -> dict[str, Any]:
    """Return the description of a judgement for the ledger, without the number of its seeds."""
    return {
        "workloads": [scale.workload for scale in plan.scales],
        "baseline": _side(plan, plan.baseline),
        "candidates": [_side(plan, arm) for arm in plan.candidates],
        "metrics": [scale.metric for scale in plan.scales],
        "margin": margin if any(scale.margin for scale in plan.scales) else "0",
        "target": plan.target,
        "combine": plan.combine,
        "first_seed": first_seed,
        "tuning": {"configurations": tune, "seeds": list(SEEDS)} if tune else "recipe",
    }


def _side(plan: JudgePlan, arm: Arm) -> dict[str, Any]:
    configs = {scale.workload: arm.resolve(scale.workload, plan.recipe) for scale in plan.scales}
    return {
        "label": arm.label,
        "optimizer": arm.optimizer,
        "keys": {workload: config.group_key for workload, config in configs.items()},
        "hyperparameters": {name: config.hyperparameters for name, config in configs.items()},
    }


def attempts_before(plan: JudgePlan) -> int:
    """Return the number of attempts against the baseline before this judgement.

    Raises:
        StoreError: The ledger is damaged.
    """
    begun = [line for line in _read(plan.root / NAME) if line["event"] == BEGUN]
    for line in begun:
        if line["judgement"] == plan.identity:
            return line["attempts_before"]
    return sum(len(line["candidates"]) for line in begun if _same_baseline(line, plan.record))


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a ledger. Events of later versions are allowed."""
    try:
        lines = read_lines(path)
    except StoreError:
        raise StoreError(f"{path} {DAMAGED}") from None
    for number, line in enumerate(lines, 1):
        if not _is_valid(line):
            raise StoreError(f"{path}, line {number} {DAMAGED}")
    return lines


def _is_valid(line: Mapping[str, Any]) -> bool:
    """Return True if a record has the values that are read from it."""
    try:
        event = line["event"]
        if event not in (BEGUN, ENDED):
            return isinstance(event, str)
        texts = [line["judgement"]]
        if event == BEGUN:
            texts += [line["baseline"]["optimizer"], *line["workloads"]]
            before = line["attempts_before"]
            if not (type(before) is int and before >= 0 and isinstance(line["candidates"], list)):
                return False
        return all(isinstance(text, str) for text in texts)
    except (KeyError, TypeError):
        return False


def _same_baseline(line: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    same = line["baseline"]["optimizer"] == record["baseline"]["optimizer"]
    return same and bool({*line["workloads"]} & {*record["workloads"]})


def begin(plan: JudgePlan) -> None:
    """Record that a judgement has begun, unless it is in the ledger."""
    if not _records(plan, BEGUN):
        _append(plan, BEGUN, {"attempts_before": attempts_before(plan), **plan.record})


def _records(plan: JudgePlan, event: str) -> list[dict[str, Any]]:
    """Return the records of one event of a judgement."""
    lines = _read(plan.root / NAME)
    return [x for x in lines if x["event"] == event and x["judgement"] == plan.identity]


def _append(plan: JudgePlan, event: str, values: Mapping[str, Any]) -> None:
    path = plan.root / NAME
    repair_tail(path)  # a driver may have been killed while it wrote
    head = {"event": event, "judgement": plan.identity, "time": time.time()}
    append_lines(path, [{**head, **values}])


def end(plan: JudgePlan, verdicts: Sequence[Verdict], problem: str) -> None:
    """Record the verdicts of a judgement, unless the last record of it has the same ones."""
    outcome = {
        "verdicts": [
            {
                "candidate": verdict.candidate,
                "decision": verdict.decision,
                "seeds": [int(seed) for seed in plan.seeds[: verdict.pairs]],
                "e": verdict.e,
                "threshold": verdict.threshold,
            }
            for verdict in verdicts
        ],
        "problem": problem,
    }
    ends = _records(plan, ENDED)
    if not ends or {name: ends[-1].get(name) for name in outcome} != outcome:
        _append(plan, ENDED, outcome)


def sentence(before: int, plan: JudgePlan) -> str:
    """Return a sentence with the number of this attempt, or the numbers of these attempts."""
    count = len(plan.candidates)
    numbers = f"{before + 1}" if count == 1 else f"{before + 1} to {before + count}"
    noun = "This is attempt" if count == 1 else "These are attempts"
    earlier = f"; {counted(before, 'earlier attempt')} in {NAME}" if before else ""
    return f"{noun} {numbers} against {plan.baseline.optimizer} on {plan.workload}{earlier}."
