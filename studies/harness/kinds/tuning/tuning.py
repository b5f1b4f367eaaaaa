"""The class of the tuning of a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from studies.harness.kinds.artefact import Artefact, Driver
from trainables.recipes.tuning import BUDGET, SEEDS

if TYPE_CHECKING:
    from studies.harness.kinds.artefact import Plan

MERGED = "recipe-ledger.csv"
"""The committed ledger, in which the rows of the tuned optimizers are added or replaced."""


@dataclass(frozen=True, kw_only=True)
class RecipeTuning(Artefact):
    """The tuning of a workload's recipe. It has no claims.

    Attributes:
        budget: The number of configurations of each optimizer.
        seeds: The seeds of each configuration.
    """

    KIND: ClassVar[str] = "tuning"

    name: str = "tune-recipe"
    title: str = "Tuning of the recipe"
    budget: int = BUDGET
    seeds: Sequence[int] = SEEDS

    @classmethod
    def execute(cls, plans: Sequence[Any], driver: Driver) -> None:
        """Train the missing trials of the plans, as for a study."""
        from studies.harness.kinds.study.execute import execute

        execute(plans, driver)

    def results(self, plan: Plan) -> list[str]:
        """Return the trials that have ended."""
        from studies.harness.evidence.status import status_files

        return status_files(plan.trials, plan.root)

    def program(self, workload: str) -> list[str]:
        """Return the command that tunes the recipe of a workload."""
        return ["-m", "studies", self.name, workload]

    def tracking(self, plan: Any) -> None:
        """Return None, because the ledger is the only record of a tuning."""
        return None

    def next_steps(self, plan: Plan) -> list[tuple[str, str]]:
        """Return the command that adds the ledger to the recipes."""
        from trainables.recipes.tuning import ledger_file

        if not (plan.folder / MERGED).is_file():
            return []
        target = f"trainables/recipes/ledgers/{ledger_file(plan.workload).name}"
        command = f"cp {shlex.quote(str(plan.folder / MERGED))} {target}"
        return [(command, "adds the ledger to the recipes")]
