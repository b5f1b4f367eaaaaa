"""An optimizer's diagnostics for a trial: at most 12 metrics of an epoch, and a row for each layer.

`precond.diagnostics` describes the entries. SGD, Adam and the peers have no diagnostics.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from torch.optim import Optimizer

from precond.diagnostics.measures import Table
from precond.diagnostics.monitor import COUNTS
from precond.optimizer import Preconditioned

# How each measure is summarised over the layers: by the median and the worst value.
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
        on: False to read nothing, as for an optimizer without diagnostics.
    """

    def __init__(self, optimizer: Optimizer, on: bool):
        self._optimizer = optimizer if on and isinstance(optimizer, Preconditioned) else None
        self._clock = None if self._optimizer is None else self._optimizer.monitor()

    def read(self) -> Table:
        """Return the diagnostics of each layer since the last call; empty if nothing is read."""
        return {} if self._optimizer is None else self._optimizer.diagnostics()

    def metrics(self, table: Table, train_s: float) -> dict[str, float]:
        """Return `diag/...` of one epoch.

        Args:
            table: The result of `read`.
            train_s: Seconds of training since the last call, `read` included; `diag/overhead` is the fraction of them
                that the diagnostics took.
        """
        return (
            {}
            if self._clock is None
            else {**summarize(table), "diag/overhead": self._clock.read() / train_s}
        )


def summarize(table: Table) -> dict[str, float]:
    """Return the measures over the layers that have them, and `diag/rescues`, the sum of all counts of all layers."""
    metrics = {}
    for name, summaries in SUMMARIES.items():
        values = [value for row in table.values() if (value := row[name]) is not None]
        metrics |= {
            f"diag/{name}_{how}": float(take(values)) for how, take in summaries.items() if values
        }
    return {
        **metrics,
        "diag/rescues": float(sum(row[name] or 0 for row in table.values() for name in COUNTS)),
    }


def rows(epoch: int, table: Table) -> list[dict[str, Any]]:
    """Return the lines of `diagnostics.jsonl` for one epoch."""
    return [{"epoch": epoch, "layer": layer, **row} for layer, row in table.items()]
