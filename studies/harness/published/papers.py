"""The published numbers of the papers, read from `studies/papers/*.yaml`.

A file contains tables. A row of a table names an arm, a column names a protocol (workload and
settings), and each cell is a published number. `load` reports all errors of a file together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import precond
from precond.hyperparameters import nearest
from studies.harness.design.facts import Facts
from studies.harness.published.strict_yaml import YamlError, read

PAPERS = Path(__file__).resolve().parents[2] / "papers"
UNITS = {"percent": 100.0, "ratio": 1.0, "epochs": 1.0, "s": 1.0, "hours": 1 / 3600, "GB": 1e-9}
"""The factors that convert measured values (fraction, seconds, bytes) to each published unit."""
METRICS = {
    "test/accuracy": "percent", "time/ratio": "ratio", "mem/ratio": "ratio", "time/epoch": "s", "mem/peak": "GB",
    "target/epochs": "epochs", "target/time": "hours", "target/time_reduction": "percent",
    "target/epochs_reduction": "percent",
}  # fmt: skip
FAILED, NOT_REACHED = "failed", "not reached"
ARMS = ("as-released", "corrected")
PROTOCOL = ("workload", "epochs", "batch_size", "schedule", "target", "reference", "hardware")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A published number: a cell of a table of a paper.

    Attributes:
        paper: Name of the paper, such as `NysAct`.
        table: The table, figure or section, such as `Table 2`.
        row: Name of the row in the paper.
        column: Name of the column in the file.
        metric: One of `METRICS`.
        unit: Unit of the value, the spread and the margin.
        value: The published number; None if the cell is an outcome.
        outcome: `failed` or `not reached` if the cell has no number; otherwise None.
        spread: The number after the plus-minus sign, or None.
        n: Number of averaged runs; None if the paper does not state it.
        spread_kind: `sd`, `se`, or `unknown` if the paper does not state it.
        margin: Two values count as equal if their difference is within the margin.
        optimizer: Name of the registered optimizer.
        as_released: True for the as-released variant.
        protocol: `workload`, and settings by their names in a trial's configuration.
    """

    paper: str
    table: str
    row: str
    column: str
    metric: str
    unit: str
    value: float | None
    outcome: str | None
    spread: float | None
    n: int | None
    spread_kind: str
    margin: float
    optimizer: str
    as_released: bool
    protocol: Mapping[str, Any]

    @property
    def higher(self) -> bool:
        """True if larger values are better, which holds for all `METRICS` in percent only."""
        return self.unit == "percent"


@dataclass(frozen=True)
class Paper:
    """A paper's cells in the order of its tables.

    Attributes:
        lost: Information that is missing from the text of the paper.
        notes: The notes on each table, by the name of the table.
    """

    name: str
    title: str
    source: str
    lost: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]


def load(path: Path) -> Paper:
    """Read and check a paper's file.

    Raises:
        YamlError: One line for each error, with the nearest allowed word.
    """
    document = read(path)
    errors = _keys(path.name, document, {"paper", "title", "source", "lost", "tables"})
    if errors or not isinstance(document["tables"], list):
        raise YamlError("\n".join(errors) or f"{path.name}: tables: must be a list")
    cells, notes = [], {}
    for table in document["tables"]:
        reader = _Table(path.name, document["paper"], table)
        cells += reader.valid_cells()
        errors += reader.errors
        if reader.name in notes:
            errors.append(f"{path.name}: {reader.name} occurs twice")
        notes[reader.name] = tuple(reader.table.get("notes", ()))
    if errors:
        raise YamlError("\n".join(errors))
    identity = (document["paper"], document["title"], document["source"])
    return Paper(*identity, tuple(document["lost"]), notes, tuple(cells))


def paper(name: str) -> Paper | None:
    """Return the paper of this name, or None if there is no file for it."""
    path = PAPERS / f"{name.lower()}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not path.exists():
        return None
    return _load_once(path, path.stat().st_mtime_ns)


@cache
def _load_once(path: Path, changed: int) -> Paper:
    """Load a file that was last changed at a time; a command needs the papers several times."""
    return load(path)


def statements(facts: Facts) -> dict[str, str]:
    """Return the artefact's citation by its title in reports.

    It is empty if there is no file for the artefact's paper.
    """
    if paper(facts.paper) is None:
        return {}
    if not facts.claimed_by_paper:
        return {"About": f"{facts.citation}. The claims are this project's, not the paper's."}
    return {"Reproduces": facts.citation}


def about(cells: Collection[Cell], artefact: str) -> list[Cell]:
    """Return the cells of the tables, figures and sections that an artefact reproduces.

    `artefact` is the text `Facts.table`, such as `Tables 3, 6 and Section 1`.
    """
    tables = {
        f"{kind} {number}"
        for kind, numbers in re.findall(
            r"(Table|Figure|Section)s? ((?:\d+(?:, | and |,)?)+)", artefact
        )
        for number in re.findall(r"\d+", numbers)
    }
    return [cell for cell in cells if cell.table in tables]


def cells_of(facts: Facts) -> list[Cell]:
    """Return the published numbers of an artefact; an empty list if there is no file for its paper."""
    source = paper(facts.paper)
    return about(source.cells, facts.table) if source else []


class _Table:
    """A table of a file. `valid_cells` reads its cells and adds the errors to `errors`."""

    KEYS = {"table", "rows", "columns", "cells"}
    OPTIONAL = {"metric", "unit", "margin", "n", "spread_kind", "notes"}

    def __init__(self, file: str, paper_name: str, table: Any):
        self.name = str(table.get("table", "a table")) if isinstance(table, dict) else "a table"
        self._where, self._paper = f"{file}: {self.name}", paper_name
        self.errors = _keys(self._where, table, self.KEYS, self.OPTIONAL)
        if not self.errors:
            parts = {part: table[part] for part in ("rows", "columns", "cells")}
            for part in ("columns", "cells"):
                if isinstance(table[part], dict):
                    parts |= {f'{part} "{name}"': value for name, value in table[part].items()}
            invalid = [part for part, value in parts.items() if not isinstance(value, dict)]
            self.errors = [f"{self._where}: {part}: must be a mapping" for part in invalid]
        self.table: dict[str, Any] = {} if self.errors else table

    def valid_cells(self) -> list[Cell]:
        """Return the valid cells; each invalid cell adds a line to `errors`."""
        if self.errors:
            return []
        arms = {row: self._arm(row, text) for row, text in self.table["rows"].items()}
        columns = {name: self._column(name, items) for name, items in self.table["columns"].items()}
        valid = []
        runs = {"n": self.table.get("n"), "spread_kind": self.table.get("spread_kind", "unknown")}
        for row, cells in self.table["cells"].items():
            self._known(f'row "{row}"', row, arms)
            for column, cell in cells.items():
                self._known(f'cell "{row}" / "{column}": column', column, columns)
                arm, settings = arms.get(row), columns.get(column)
                value = self._value(row, column, cell)
                if arm and settings and value:
                    place = {"paper": self._paper, "table": self.name, "row": row, "column": column}
                    valid.append(Cell(**place, **value, **runs, **arm, **settings))
        return valid

    def _error(self, text: str) -> None:
        self.errors.append(f"{self._where}: {text}")

    def _known(self, what: str, name: str, known: Collection[str]) -> bool:
        if name not in known:
            self._error(f"{what}: unknown.{nearest(str(name), map(str, known))}")
        return name in known

    def _arm(self, row: str, text: Any) -> dict[str, Any] | None:
        optimizer, _, kind = str(text).partition(" ")
        known = self._known(f'row "{row}": optimizer "{optimizer}"', optimizer, precond.available())
        known &= self._known(f'row "{row}": arm "{kind}"', kind, ARMS)
        return {"optimizer": optimizer, "as_released": kind == "as-released"} if known else None

    def _column(self, column: str, items: Mapping[str, Any]) -> dict[str, Any] | None:
        settings = {
            name: items.get(name, self.table.get(name)) for name in ("metric", "unit", "margin")
        }
        protocol = {name: value for name, value in items.items() if name not in settings}
        hyperparameters = {
            name for optimizer in precond.available() for name in precond.defaults(optimizer)
        }
        allowed = [*PROTOCOL, *sorted(hyperparameters)]
        before, metric = len(self.errors), settings["metric"]
        for name in protocol:
            self._known(f'column "{column}": {name}', name, allowed)
        if self._known(f'column "{column}": metric "{metric}"', metric, METRICS):
            self._known(
                f'column "{column}": unit "{settings["unit"]}"', settings["unit"], [METRICS[metric]]
            )
        if not _positive(settings["margin"]):
            self._error(f'column "{column}": margin = {settings["margin"]}: must be a number > 0')
        if not re.fullmatch(r"[a-z0-9]+/[a-z0-9_]+", str(protocol.get("workload"))):
            workload = protocol.get("workload")
            self._error(f'column "{column}": workload = {workload}: must be dataset/model')
        return {**settings, "protocol": protocol} if len(self.errors) == before else None

    def _value(self, row: str, column: str, cell: Any) -> dict[str, Any] | None:
        if cell in (FAILED, NOT_REACHED):
            return {"value": None, "spread": None, "outcome": cell}
        numbers: Any = cell if isinstance(cell, list) and len(cell) == 2 else (cell, None)
        value, spread = numbers
        if _positive(value) and (spread is None or _positive(spread)):
            spread = None if spread is None else float(spread)
            return {"value": float(value), "spread": spread, "outcome": None}
        allowed = f"a number > 0, [number, spread], {FAILED} or {NOT_REACHED}"
        self._error(f'cell "{row}" / "{column}" = {cell}: must be {allowed}')
        return None


def _keys(
    where: str, value: Any, required: Collection[str], optional: Collection[str] = ()
) -> list[str]:
    """Return the errors in the keys of a mapping."""
    if not isinstance(value, dict):
        return [f"{where}: must be a mapping"]
    known = [*sorted(required), *sorted(optional)]
    unknown = [
        f'{where}: key "{key}": unknown.{nearest(str(key), known)}'
        for key in value
        if key not in known
    ]
    missing = [key for key in sorted(required) if key not in value]
    return unknown + [f'{where}: key "{key}" is missing' for key in missing]


def _positive(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    )
