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


def duration(seconds: float) -> str:
    """Return `40 s`, `12 min` or `3.4 hours`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
