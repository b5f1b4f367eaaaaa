"""Error rates of the statistics, measured on simulated tables and compared with nominal rates.

A test file lists its rates and verifies each of them:

    @pytest.mark.parametrize(("rate", "full"), cases(RATES))
    def test_rate_of_errors(rate, full):
        verify(rate, full)

`make test-statistics` runs the full size and prints all measured rates.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

FULL = 5000  # tables at the full size
CHUNK = 250  # tables that are simulated at once, which limits the memory


@dataclass(frozen=True)
class Rate:
    """A rate of errors that the documentation states.

    Attributes:
        decision: The kind of decision, such as `all pairs`.
        tables: The distribution of the results, such as `normal`.
        size: The number of seeds, arms and the like.
        simulate: Takes a generator and a number of tables, and returns for each table whether the
            decision is an error.
        nominal: The rate that the decision promises.
        limit: The rate that the documentation states, if it is larger than the nominal rate.
        small: The number of tables at the small size; 0 if only the full size is simulated.
    """

    decision: str
    tables: str
    size: str
    simulate: Callable[[np.random.Generator, int], Any]
    nominal: float = 0.05
    limit: float = 0.0
    small: int = 0

    def __str__(self) -> str:
        return f"{self.decision}, {self.tables}, {self.size}"

    def measure(self, tables: int) -> float:
        """Return the share of the tables with an error; equal calls return equal shares."""
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        sizes = [min(CHUNK, tables - start) for start in range(0, tables, CHUNK)]
        return float(np.concatenate([self.simulate(rng, size) for size in sizes]).mean())


MEASURED: list[tuple[Rate, float]] = []  # the rates of the full size


def cases(rates: Sequence[Rate]) -> list[Any]:
    """Return the parameters of a test: each rate at its small size, if any, and at the full one."""
    small = [pytest.param(rate, False, id=f"{rate}, small") for rate in rates if rate.small]
    marks = pytest.mark.statistics
    return small + [pytest.param(rate, True, id=f"{rate}, full", marks=marks) for rate in rates]


def verify(rate: Rate, full: bool) -> None:
    """Check that a measured rate is at most the nominal one, within three standard errors."""
    tables = FULL if full else rate.small
    limit = max(rate.nominal, rate.limit)
    measured = rate.measure(tables)
    if full:
        MEASURED.append((rate, measured))
    assert measured <= limit + 3 * math.sqrt(limit * (1 - limit) / tables)


def summary(measured: Sequence[tuple[Rate, float]]) -> list[str]:
    """Return a Markdown table: for each decision and distribution the largest rate of all sizes."""
    groups: dict[tuple[str, str, float], list[tuple[float, str]]] = {}
    for rate, share in measured:
        key = rate.decision, rate.tables, rate.nominal
        groups.setdefault(key, []).append((share, rate.size))
    rows = ["| decision | results | nominal | measured | largest at |", "|---|---|---:|---:|---|"]
    for (decision, tables, nominal), shares in groups.items():
        low, (high, size) = min(shares)[0], max(shares)
        interval = f"{low:.1%} to {high:.1%}" if len(shares) > 1 else f"{high:.1%}"
        rows.append(f"| {decision} | {tables} | {nominal:.1%} | {interval} | {size} |")
    return rows
