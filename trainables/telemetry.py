"""A trial's diagnostics: at most 12 metrics per epoch, and one row per epoch and layer.

`precond.diagnostics` describes the columns of a row. SGD, Adam and the optimizers of the package
pytorch-optimizer have no diagnostics.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from torch.optim import Optimizer

from precond.diagnostics.measures import Table
from precond.diagnostics.monitor import COUNTS
from precond.optimizer import Preconditioned

# The summaries of each measure over the layers: the median, the value of the worst layer, or both.
SUMMARIES: dict[str, dict[str, Callable[[list[float]], float]]] = {
    "stable_rank": {"median": median, "max": max},
    "top_over_damping": {"median": median, "max": max},
    "residual": {"median": median, "max": max},
    "staleness": {"max": max},
    "cosine": {"median": median, "min": min},
    "update_over_weight": {"median": median},
}


class Telemetry:
    """Reads the diagnostics of an optimizer.

    Args:
        optimizer: Any optimizer.
        on: If False, nothing is read, as for an optimizer without diagnostics.
    """

    def __init__(self, optimizer: Optimizer, on: bool):
        self._optimizer = optimizer if on and isinstance(optimizer, Preconditioned) else None
        self._clock = None if self._optimizer is None else self._optimizer.monitor()

    def read(self) -> Table:
        """Return the diagnostics of each layer since the last call, or {} if nothing is read."""
        return {} if self._optimizer is None else self._optimizer.diagnostics()

    def metrics(self, table: Table, train_s: float) -> dict[str, float]:
        """Return the metrics `diag/...` of an epoch.

        Args:
            table: The result of `read`.
            train_s: Seconds of training since the last call, including `read`. `diag/overhead` is
                the fraction of these seconds that the diagnostics took.
        """
        if self._clock is None:
            return {}
        return {**summarize(table), "diag/overhead": self._clock.read() / train_s}


def summarize(table: Table) -> dict[str, float]:
    """Return the summaries of the measures, and `diag/rescues`.

    `diag/rescues` is the sum over the layers of the events in `COUNTS`, such as failed refreshes.
    A layer without a value of a measure is omitted from the summaries of this measure.
    """
    metrics = {}
    for name, summaries in SUMMARIES.items():
        values = [value for row in table.values() if (value := row[name]) is not None]
        metrics |= {
            f"diag/{name}_{kind}": float(summary(values))
            for kind, summary in summaries.items()
            if values
        }
    rescues = sum(row[name] or 0 for row in table.values() for name in COUNTS)
    return {**metrics, "diag/rescues": float(rescues)}


def rows(epoch: int, table: Table) -> list[dict[str, Any]]:
    """Return the rows of `diagnostics.jsonl` of an epoch."""
    return [{"epoch": epoch, "layer": layer, **row} for layer, row in table.items()]
