"""The papers' published numbers, from `studies/papers/*.yaml`; a file is checked as a whole before anything runs.

A file has tables; the rows of a table name arms, its columns name what was run, and each cell is one claim.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import precond
from precond.hyperparameters import nearest
from studies.harness.design.facts import Facts
from studies.harness.published.strict_yaml import YamlError, read

PAPERS = Path(__file__).resolve().parents[2] / "papers"
UNITS = {"percent": 100.0, "ratio": 1.0, "epochs": 1.0, "s": 1.0, "hours": 1 / 3600, "GB": 1e-9}
"""The factor from a measured value (fraction, seconds, bytes) to a published one."""
METRICS = {
    "test/accuracy": "percent", "time/ratio": "ratio", "mem/ratio": "ratio", "time/epoch": "s", "mem/peak": "GB",
    "target/epochs": "epochs", "target/time": "hours", "target/time_reduction": "percent",
    "target/epochs_reduction": "percent",
}  # fmt: skip
FAILED, NOT_REACHED = "failed", "not reached"
ARMS = ("as-released", "corrected")
PROTOCOL = ("workload", "epochs", "batch_size", "schedule", "target", "reference", "hardware")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published cell.

    Attributes:
        paper: Such as `NysAct`.
        table: Such as `Table 2`.
        row: Its name in the paper.
        column: Its name in the file.
        metric: One of `METRICS`.
        unit: The metric's unit, in which value, spread and margin are.
        value: The number; None for an outcome.
        outcome: `failed` or `not reached` in place of a number.
        spread: The number after the plus-minus sign, if there is one.
        n: Runs averaged; None if the paper does not state it.
        spread_kind: `sd`, `se`, or `unknown` if the paper does not state it.
        margin: Differences within it are called the same.
        optimizer: Registered name of the arm that the number belongs to.
        as_released: True if that arm is the as-released variant.
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


@dataclass(frozen=True)
class Paper:
    """A paper's claims, in the order of its tables, and what its text lost or does not state."""

    name: str
    title: str
    source: str
    lost: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]]
    claims: tuple[Claim, ...]


def load(path: Path) -> Paper:
    """Read and check a paper's file.

    Raises:
        YamlError: One line for each error, with the nearest allowed word for one that is misspelt.
    """
    document = read(path)
    errors = _keys(path.name, document, {"paper", "title", "source", "lost", "tables"})
    if errors or not isinstance(document["tables"], list):
        raise YamlError("\n".join(errors) or f"{path.name}: tables: must be a list")
    claims, notes = [], {}
    for table in document["tables"]:
        reader = _Table(path.name, document["paper"], table)
        claims += reader.claims()
        errors += reader.errors + (
            [f"{path.name}: {reader.name} is there twice"] if reader.name in notes else []
        )
        notes[reader.name] = tuple(reader.table.get("notes", ()))
    if errors:
        raise YamlError("\n".join(errors))
    identity = (document["paper"], document["title"], document["source"])
    return Paper(*identity, tuple(document["lost"]), notes, tuple(claims))


def paper(name: str) -> Paper | None:
    """Return the paper that a study names, or None if there is no file of it."""
    path = PAPERS / f"{name.lower()}.yaml"
    return load(path) if re.fullmatch(r"[A-Za-z0-9_-]+", name) and path.exists() else None


def about(claims: Collection[Claim], artefact: str) -> list[Claim]:
    """Return the claims of the tables, figures and sections in a study's `table`, as `Tables 3, 6 and Section 1`."""
    named = {
        f"{kind} {number}"
        for kind, numbers in re.findall(
            r"(Table|Figure|Section)s? ((?:\d+(?:, | and |,)?)+)", artefact
        )
        for number in re.findall(r"\d+", numbers)
    }
    return [claim for claim in claims if claim.table in named]


def claims_of(facts: Facts) -> list[Claim]:
    """Return the claims about an artefact; nothing if there is no file of its paper."""
    source = paper(facts.paper)
    return about(source.claims, facts.table) if source else []


class _Table:
    """One table of a file: `claims` returns its cells and collects their errors."""

    KEYS = {"table", "rows", "columns", "cells"}
    OPTIONAL = {"metric", "unit", "margin", "n", "spread_kind", "notes"}

    def __init__(self, file: str, paper_name: str, table: Any):
        self.name = str(table.get("table", "a table")) if isinstance(table, dict) else "a table"
        self._where, self._paper = f"{file}: {self.name}", paper_name
        self.errors = _keys(self._where, table, self.KEYS, self.OPTIONAL)
        if not self.errors:
            parts = {part: table[part] for part in ("rows", "columns", "cells")}
            for part in ("columns", "cells"):
                parts |= (
                    {f'{part} "{k}"': v for k, v in table[part].items()}
                    if isinstance(table[part], dict)
                    else {}
                )
            invalid = [part for part, given in parts.items() if not isinstance(given, dict)]
            self.errors = [f"{self._where}: {part}: must be keys and values" for part in invalid]
        self.table: dict[str, Any] = {} if self.errors else table

    def claims(self) -> list[Claim]:
        """Return the valid cells; `errors` has a line for each other one."""
        if self.errors:
            return []
        arms = {row: self._arm(row, text) for row, text in self.table["rows"].items()}
        columns = {
            column: self._column(column, given) for column, given in self.table["columns"].items()
        }
        claims = []
        runs = {"n": self.table.get("n"), "spread_kind": self.table.get("spread_kind", "unknown")}
        for row, cells in self.table["cells"].items():
            self._known(f'row "{row}"', row, arms)
            for column, cell in cells.items():
                self._known(f'cell "{row}" / "{column}": column', column, columns)
                arm, settings, value = (
                    arms.get(row),
                    columns.get(column),
                    self._value(row, column, cell),
                )
                if arm and settings and value:
                    place = {"paper": self._paper, "table": self.name, "row": row, "column": column}
                    claims.append(Claim(**place, **value, **runs, **arm, **settings))
        return claims

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

    def _column(self, column: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
        settings = {
            name: given.get(name, self.table.get(name)) for name in ("metric", "unit", "margin")
        }
        protocol = {name: value for name, value in given.items() if name not in settings}
        allowed = [
            *PROTOCOL,
            *sorted({name for o in precond.available() for name in precond.defaults(o)}),
        ]
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
            self._error(f'column "{column}": workload = {protocol.get("workload")}: as data/model')
        return {**settings, "protocol": protocol} if len(self.errors) == before else None

    def _value(self, row: str, column: str, cell: Any) -> dict[str, Any] | None:
        if cell in (FAILED, NOT_REACHED):
            return {"value": None, "spread": None, "outcome": cell}
        numbers: Any = cell if isinstance(cell, list) and len(cell) == 2 else (cell, None)
        value, spread = numbers
        if _positive(value) and (spread is None or _positive(spread)):
            return {
                "value": float(value),
                "spread": None if spread is None else float(spread),
                "outcome": None,
            }
        allowed = f"a number > 0, [number, spread], {FAILED} or {NOT_REACHED}"
        self._error(f'cell "{row}" / "{column}" = {cell}: must be {allowed}')
        return None


def _keys(
    where: str, given: Any, needed: Collection[str], optional: Collection[str] = ()
) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where}: must be keys and values"]
    known = [*sorted(needed), *sorted(optional)]
    unknown = [
        f'{where}: key "{key}": unknown.{nearest(str(key), known)}'
        for key in given
        if key not in known
    ]
    return unknown + [
        f'{where}: key "{key}" is missing' for key in sorted(needed) if key not in given
    ]


def _positive(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    )
