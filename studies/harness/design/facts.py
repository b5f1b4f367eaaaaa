"""The facts of an artefact (a study, for example), such as its title and the claims it tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The description of an artefact in reports and in MLflow.

    Attributes:
        name: File name without `.py`; also the MLflow experiment.
        title: Title of the report.
        paper: Name of the paper whose result is reproduced; `ours` for a user-defined artefact.
        table: The table or figure of the paper; may be empty.
        claim: The claim that is tested; empty for the tuning of a recipe, which tests none.
        claimed_by_paper: False if the claim is this project's and not the paper's.
        falsifier: The outcome that would contradict the claim; empty without a claim.
        published: The workloads that the paper uses, each with the settings of the paper that
            differ from the workload's recipe.
        reconstructed: Choices of the artefact that the paper does not state.
    """

    name: str
    title: str
    paper: str = "ours"
    table: str = ""
    claim: str
    falsifier: str
    claimed_by_paper: bool = True
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reconstructed: tuple[str, ...] = ()

    @property
    def citation(self) -> str:
        """The paper and the table, such as `NysAct, Figure 7`; only the paper without a table."""
        return f"{self.paper}, {self.table}" if self.table else self.paper

    @property
    def papers_command(self) -> str:
        """The command that runs the workloads of the paper; empty if `published` is empty."""
        return (
            f"python studies/{self.name}.py --workload {','.join(self.published)}"
            if self.published
            else ""
        )
