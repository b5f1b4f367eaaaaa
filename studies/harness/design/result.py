"""The result of a report: its files, its findings and the table for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table for a terminal of 80 columns.

    Attributes:
        title: Text above the table.
        header: The title of each column.
        rows: The cells of each row, one for each column.
        text: Indices of the columns with text, which are aligned left.
        muted: Indices of the columns with context that is not a result.
        warnings: Indices of the columns that list the trials that did not complete.
        bold: (row, column) of each cell that is significant after the table's correction.
        caption: Text below the table.
    """

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: Collection[int] = (0,)
    muted: Collection[int] = ()
    warnings: Collection[int] = ()
    bold: Collection[tuple[int, int]] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report as plain values, so that it can be stored as JSON.

    Attributes:
        files: The files of the report, including the HTML page.
        claims: The decision on each claim (`report.claims.records`), such as its `verdict` and its
            `sentence`.
        findings: One sentence for each finding.
        listing: The table for the terminal, or None.
        record: The results as one line of JSON, for `--json`.
        metrics: Summary metrics for MLflow, by name.
        failed: True if trials failed; the exit code is then 1.
    """

    files: Sequence[Path]
    claims: Sequence[Mapping[str, Any]] = ()
    findings: Sequence[str] = ()
    listing: Listing | None = None
    record: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    failed: bool = False
