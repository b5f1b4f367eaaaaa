"""The text about an optimizer that `python -m precond` prints, also in the table of the README."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MODES = ("accumulation", "checkpointing", "autocast", "GradScaler", "compile", "data parallel")
"""Ways of training in which an optimizer must give the numbers of a plain loop; tests compare them."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A summary of one optimizer.

    Costs are operations per step (a multiplication and an addition are 2) and memory is in scalars beyond gradient and
    momentum, for each layer with N = examples x positions rows, p inputs (bias included) and o outputs, or for all D
    parameters; r is the rank, c and i are the intervals `cov_interval` and `inv_interval`.

    Attributes:
        paper: The paper that introduced it.
        cost: Operations per step.
        memory: Scalars in its state.
        deviations: Differences of the defaults from the released code.
        unsupported: The modes (of `MODES`) that it refuses, each with the reason.
    """

    paper: str
    cost: str
    memory: str
    deviations: str = "none"
    unsupported: Mapping[str, str] = field(default_factory=dict)
