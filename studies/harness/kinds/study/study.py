"""The class of a study."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from precond.hyperparameters import HyperparameterError
from studies.harness.design.arms import Arm, Trial, as_level, value
from studies.harness.design.claims import Better, Claim
from studies.harness.kinds.artefact import Artefact
from studies.harness.kinds.study.figures import Figure

if TYPE_CHECKING:
    from studies.harness.evidence.analysis import Evidence
    from studies.harness.evidence.power import Power
    from studies.harness.kinds.artefact import Plan
    from trainables.config import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Study(Artefact):
    """A comparison of configurations (arms), each trained with several seeds.

    Attributes:
        arms: The configurations to compare.
        figure: The main figure. Its metric is also the metric of the tables.
        seeds: The number of seeds. The seeds are 0 ... seeds - 1.
        timed: True if the report shows the seconds per epoch, from the files of `compare_cost`.
        arms_on: The arms that replace `arms` on some workloads, by workload or by dataset.
        extra_figures: Additional figures of the same trials.
        any_optimizer: True if `--optimizers` may name any registered optimizer. An optimizer that
            no arm has is added with its values in the recipe. If such a study has no `claims`, it
            has one for each pair of arms: the first arm is better than the second.
    """

    KIND: ClassVar[str] = "study"

    arms: Sequence[Arm]
    figure: Figure
    seeds: int = 5
    timed: bool = False
    arms_on: Mapping[str, Sequence[Arm]] = field(default_factory=dict)
    extra_figures: Sequence[Figure] = ()
    any_optimizer: bool = False

    def claims_on(self, workload: str) -> list[Claim]:
        """Return the claims that are tested on a workload (see `Facts.claims_on`)."""
        if self.claims or not self.any_optimizer:
            return super().claims_on(workload)
        pairs = itertools.combinations([arm.label for arm in self.arms_of(workload)], 2)
        return [Better(first, than=second) for first, second in pairs]

    def arms_of(self, workload: str) -> list[Arm]:
        """Return the arms on a workload.

        If the workload's recipe has no as-released variants, all arms are corrected variants.

        If arms vary a single factor and none of them has the recipe's value of the factor, an arm
        with this value is added. All ablations share its trials and compare the other levels with
        it.
        """
        arms = self.arms_on.get(workload, self.arms_on.get(workload.rpartition("/")[0], self.arms))
        rows: dict[str, list[Arm]] = {}
        for arm in _distinct(arms, workload):
            rest = {name: level for name, level in arm.overrides.items() if name not in arm.factors}
            row = str((arm.optimizer, arm.as_released, arm.factors, rest))
            rows.setdefault(row, []).append(arm)
        return [arm for row in rows.values() for arm in _with_centre(row, workload)]

    def trials(
        self,
        workload: str | None = None,
        seeds: Sequence[int] | None = None,
        recipe: Mapping[str, Any] | None = None,
        arms: Sequence[Arm] | None = None,
    ) -> list[Trial]:
        """Return the trials, sorted by seed, so that each arm has its first result early.

        The arguments replace the values of the study and of the workload's recipe. If the
        as-released and the corrected variant of an optimizer are the same trials on this workload,
        only the first of the two arms is returned.

        Raises:
            HyperparameterError: One line for each error in an arm.
        """
        workload = workload or self.workload
        fixed = {**self.published.get(workload, {}), **(recipe or {})}
        pairs: dict[str, tuple[Arm, TrialConfig]] = {}
        errors: dict[str, None] = {}
        for arm in self.arms_of(workload) if arms is None else arms:
            try:
                config = arm.resolve(workload, fixed)
            except HyperparameterError as error:
                errors.update(dict.fromkeys(str(error).splitlines()))  # each line once
                continue
            twin, _ = pairs.setdefault(config.group_key, (arm, config))
            other_variant = replace(twin, as_released=not twin.as_released)
            if twin is not arm and arm != other_variant:
                errors[f"{self.name}: arms {twin.label} and {arm.label} are the same trials"] = None
        if errors:
            raise HyperparameterError("\n".join(errors))
        seeds = range(self.seeds) if seeds is None else seeds
        return [
            Trial(arm, config.with_seed(seed)) for seed in seeds for arm, config in pairs.values()
        ]

    def power(
        self, seeds: int | None = None, workload: str | None = None, root: Path | None = None
    ) -> Power:
        """Return the smallest gains that the study's claims detect with a number of seeds.

        Args:
            seeds: The number of seeds; that of the study if None.
            workload: The workload; that of the study if None.
            root: An output folder, whose completed trials of the workload give the SD of a gain
                over seeds. If None, the gains are in SDs only.
        """
        from studies.harness.evidence.power import power

        workload = workload or self.workload
        labels = list(dict.fromkeys(trial.arm.label for trial in self.trials(workload, [0])))
        metric = self.figure.on(workload).metric
        seeds = self.seeds if seeds is None else seeds
        return power(self.claims_on(workload), labels, workload, seeds, metric, root)

    def reported(self, plan: Any) -> Any:
        """Return the plan with the trials of its arms that were trained with other seeds."""
        return self.module("plan").reported(plan)

    def results(self, plan: Plan) -> list[str]:
        """Return the trials that have ended."""
        from studies.harness.evidence.status import status_files

        return status_files(plan.trials, plan.root)

    def evidence(self, plan: Plan) -> Evidence:
        """Return the analysis of the trials, with the decisions on the claims."""
        return self.module("results").evidence(plan)

    def inputs(self, plan: Plan) -> list[Path]:
        """Return the trial folders and the files of measured costs."""
        from trainables.store import trial_folder

        folders = [trial_folder(plan.root, trial.config.trial_key) for trial in plan.trials]
        return [*folders, *sorted(plan.root.glob("cost/*/*.json"))]

    def next_steps(self, plan: Plan) -> list[tuple[str, str]]:
        """Return the commands that resume or repeat trials, and that add a seed.

        A command that adds a seed is returned if all trials have ended. It is omitted if the seeds
        are not 0 ... n - 1.
        """
        return self.module("next_steps").next_steps(plan)


def _distinct(arms: Sequence[Arm], workload: str) -> list[Arm]:
    """Return the arms of a study on a workload.

    If the workload has no as-released variants, all arms are corrected, and duplicates are removed.
    """
    from trainables.workloads import find_recipe

    try:
        variants = find_recipe(workload).as_released
    except HyperparameterError:  # `Study.trials` reports the error
        return [*arms]
    if variants:
        return [*arms]
    corrected = [replace(arm, as_released=False) for arm in arms]
    return list({f"{arm.label} {arm.overrides}": arm for arm in corrected}.values())


def _with_centre(row: Sequence[Arm], workload: str) -> list[Arm]:
    """Add an arm with the recipe's value to arms that vary a single factor.

    If an arm has this value already, or if the arms do not vary a single factor, they are returned
    unchanged.
    """
    first, levels = row[0], [arm.overrides[arm.factors[0]] for arm in row if len(arm.factors) == 1]
    if not levels:
        return [*row]
    factor = first.factors[0]
    recipe_arm = Arm(optimizer=first.optimizer, as_released=first.as_released)
    try:
        centre = as_level(value(recipe_arm.resolve(workload), factor))
    except HyperparameterError:  # `Study.trials` reports the error
        return [*row]
    if centre is None or centre in levels:
        return [*row]
    arms = [*row, replace(first, overrides={**first.overrides, factor: centre})]
    ordered = all(isinstance(level, int | float) for level in [*levels, centre])
    return sorted(arms, key=lambda arm: arm.overrides[factor]) if ordered else arms
