"""The plan of a judgement: its sides on each workload and its rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precond.hyperparameters import HyperparameterError
from studies.harness.design.arms import Arm, Trial
from studies.harness.evidence.judgement import Combination
from studies.harness.evidence.scale import Scale
from studies.harness.evidence.status import missing
from studies.harness.kinds.artefact import Plan
from studies.harness.kinds.judge import tuning
from studies.harness.kinds.judge.judge import Judgement
from trainables.config import digest

MAX_LENGTH = 80  # of the name of a report's folder, without its digest


@dataclass(frozen=True, kw_only=True)
class JudgePlan(Plan):
    """A judgement with the values of its command.

    Attributes:
        scales: The metric and the margin on each workload.
        candidates: The candidates.
        baseline: The baseline.
        seeds: The seeds in the order in which they are used.
        combine: The combination of the workloads.
        target: The value of the test metric to reach, for the metrics that are times; or None.
        tuning: The trials that tune each side, by workload and label; empty without `--tune`.
        recipe: The settings that replace those of the recipes.
        record: The description of the judgement in the ledger.
    """

    artefact: Judgement
    scales: Sequence[Scale]
    candidates: Sequence[Arm]
    baseline: Arm
    seeds: Sequence[int]
    combine: Combination
    target: float | None
    tuning: Mapping[str, Mapping[str, Sequence[Trial]]]
    recipe: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def arms(self) -> list[Arm]:
        """The baseline, then the candidates."""
        return [self.baseline, *self.candidates]

    @property
    def labels(self) -> list[str]:
        """The labels of the candidates."""
        return [arm.label for arm in self.candidates]

    @property
    def identity(self) -> str:
        """A digest of everything that decides the verdicts, except for the number of seeds."""
        sides = [self.record["baseline"], *self.record["candidates"]]
        rules = {
            name: value
            for name, value in self.record.items()
            if name not in ("baseline", "candidates")
        }
        return digest({**rules, "sides": [side["keys"] for side in sides]})

    @property
    def folder(self) -> Path:
        """The folder of the report."""
        name = f"{','.join(self.labels)} vs {self.baseline.label} {self.workload}"
        name = re.sub(r"[^A-Za-z0-9=.,+-]+", "-", name)[:MAX_LENGTH]
        return self.root / "reports" / self.artefact.name / f"{name}+{self.identity[:8]}"

    @property
    def tuning_trials(self) -> list[Trial]:
        """The trials that tune the sides, workload by workload and side by side."""
        return [t for sides in self.tuning.values() for side in sides.values() for t in side]

    def sides(self) -> dict[str, dict[str, Trial]] | None:
        """Return the trial of each side with seed 0, by workload and label.

        None if the sides are not tuned yet.

        Raises:
            HyperparameterError: The tuning of a side has no winner.
        """
        result: dict[str, dict[str, Trial]] = {}
        for scale in self.scales:
            for arm in self.arms:
                side = self._tuned(arm, scale.workload)
                if side is None:
                    return None
                trial = Trial(side, side.resolve(scale.workload, self.recipe))
                result.setdefault(scale.workload, {})[arm.label] = trial
        return result

    def _tuned(self, arm: Arm, workload: str) -> Arm | None:
        if not self.tuning:
            return arm
        trials = self.tuning[workload][arm.label]
        if missing(trials, self.root):
            return None
        values = tuning.best(arm, trials, self.root)
        if values is None:
            raise HyperparameterError(
                f"--tune: none of the configurations of {arm.label} completes all trials on {workload}"
            )
        return tuning.tuned(arm, values)

    def pairs(self, sides: Mapping[str, Mapping[str, Trial]], seeds: Sequence[int]) -> list[Trial]:
        """Return the trials of the sides with each of the seeds, seed by seed."""
        return [
            Trial(arm, config.with_seed(seed))
            for seed in seeds
            for by_label in sides.values()
            for arm, config in by_label.values()
        ]
