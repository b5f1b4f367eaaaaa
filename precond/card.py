"""What is printed about an optimizer: by `python -m precond`, and in the table of the README."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MODES = ("accumulation", "checkpointing", "autocast", "GradScaler", "compile", "data parallel")
"""Ways of training in which an optimizer must give the numbers of a plain loop (held by tests)."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One optimizer, in text.

    Costs are operations per step (a multiplication and an addition are 2) and memory is in scalars beyond gradient and
    momentum, for each layer with N = examples x positions rows, p inputs (bias included) and o outputs, or for all D
    parameters; r is the rank, c and i are the intervals `cov_interval` and `inv_interval`.

    Attributes:
        paper: Where it comes from.
        cost: Operations per step.
        memory: Scalars kept.
        deviations: Where the default differs from the released code.
        unsupported: Those of `MODES` that it refuses, each with the reason.
    """

    paper: str
    cost: str
    memory: str
    deviations: str = "none"
    unsupported: Mapping[str, str] = field(default_factory=dict)
