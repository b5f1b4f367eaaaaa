"""The facts of an artefact: which table or figure of which paper it reproduces, and what would contradict it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What reports and MLflow state about any artefact.

    Attributes:
        name: File name without `.py`; also the MLflow experiment.
        title: One line for reports.
        paper: The paper that this reproduces.
        table: Its table or figure.
        claim: What the paper says, and so what is tested.
        falsifier: The outcome that would contradict the claim.
        published: The workloads of the paper's own artefact, each with what the paper sets there instead of the
            recipe's values.
        reconstructed: What the paper's text does not state and is set here, a line each.
    """

    name: str
    title: str
    paper: str
    table: str
    claim: str
    falsifier: str
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reconstructed: tuple[str, ...] = ()

    @property
    def citation(self) -> str:
        """Paper and table in one: `NysAct, Figure 7`."""
        return f"{self.paper}, {self.table}"

    @property
    def papers_command(self) -> str:
        """The command that runs the paper's own workloads; empty without `published`."""
        return (
            f"python studies/{self.name}.py --workload {','.join(self.published)}"
            if self.published
            else ""
        )
