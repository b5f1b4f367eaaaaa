"""Words and numbers in sentences and cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

from studies.harness.evidence.metrics import number as number
from studies.harness.evidence.metrics import unit as unit

FEW = 5


def few(names: Sequence[str]) -> str:
    """Return names, or how many there are if there are many."""
    return ", ".join(names) if len(names) <= FEW else f"{len(names)} arms"


def probability(p: float) -> str:
    """Return a p-value as text; never 0."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
