"""The result of a report: its files, the sentences it states, the table that the terminal shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table for a terminal of 80 columns.

    Attributes:
        title: Above it.
        header: One word for each column.
        rows: As many cells each.
        text: Columns that hold words and are flush left.
        muted: Columns beside the result that are not the result.
        warnings: Columns that say what is missing.
        bold: (row, column) of cells that survive the table's correction.
        caption: Below it.
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
    """What a report says; it holds plain values only, so that it can be kept as JSON.

    Attributes:
        files: The files, the HTML page among them.
        findings: One sentence for each finding.
        listing: What the terminal shows; None for nothing.
        record: The results as one line of JSON, for `--json`.
        metrics: The summary's numbers for MLflow, by name.
        failed: True if trials failed, which gives exit code 1.
    """

    files: Sequence[Path]
    findings: Sequence[str] = ()
    listing: Listing | None = None
    record: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    failed: bool = False
