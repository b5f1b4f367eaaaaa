"""The facts of an artefact (a study, for example), such as its title and the claims it tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from studies.harness.design.claims import Claim
from studies.harness.design.matching import is_on


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The description of an artefact in reports and in MLflow.

    Attributes:
        name: File name without `.py`; also the MLflow experiment.
        title: Title of the report.
        paper: Name of the paper whose result is reproduced; `ours` for a user-defined artefact.
        table: The table or figure of the paper; may be empty.
        claims: The claims that the results support or contradict. They are corrected together:
            the probability of one or more false decisions is at most 5%. Without claims, the
            report is exploratory.
        claimed_by_paper: False if the claims are this project's and not the paper's.
        undecidable: Statements of the paper that the artefact cannot decide, each with the reason.
        published: The workloads that the paper uses, each with the settings of the paper that
            differ from the workload's recipe.
        reconstructed: Choices of the artefact that the paper does not state.
    """

    name: str
    title: str
    paper: str = "ours"
    table: str = ""
    claims: Sequence[Claim] = ()
    claimed_by_paper: bool = True
    undecidable: tuple[str, ...] = ()
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reconstructed: tuple[str, ...] = ()

    @property
    def citation(self) -> str:
        """The paper and the table, such as `NysAct, Figure 7`; only the paper without a table."""
        return f"{self.paper}, {self.table}" if self.table else self.paper

    def claims_on(self, workload: str) -> list[Claim]:
        """Return the claims that are tested on a workload.

        If the workload's recipe has no as-released variants, they are about the corrected variants.
        """
        from trainables.workloads import find_recipe

        claims = [claim for claim in self.claims if is_on(claim, workload)]
        if find_recipe(workload).as_released:
            return claims
        return [claim.corrected for claim in claims]

    @property
    def papers_command(self) -> str:
        """The command that runs the workloads of the paper; empty if `published` is empty."""
        return (
            f"python studies/{self.name}.py --workload {','.join(self.published)}"
            if self.published
            else ""
        )
