"""A report as a list of blocks, rendered to Markdown, LaTeX and HTML by Jinja templates.

A report with the same blocks is the same file, byte for byte.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from studies.harness.design.result import Listing
from trainables.files import write_atomically

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A paragraph; text in backticks is set as code.

    Attributes:
        text: The paragraph.
        label: Bold words before the paragraph.
        note: True for a note in small print.
        items: A bulleted list after the paragraph.
        finding: True if the text (or each of its items) is a finding. The command also prints the
            findings on the terminal.
    """

    text: str
    label: str = ""
    note: bool = False
    items: tuple[str, ...] = ()
    finding: bool = False


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A figure that exists as `<name>.png` and `<name>.svg`."""

    name: str
    alt: str


class Cell(NamedTuple):
    """A cell of a table: its text and style."""

    text: str
    left: bool
    muted: bool
    bold: bool


@dataclass(frozen=True)
class Table:
    """A table of formatted cells.

    Attributes:
        name: The LaTeX label.
        header: The title of each column.
        rows: The cells of each row, one for each column.
        text: Indices of the columns with text, which are aligned left.
        muted: Indices of the columns with context that is not a result.
        bold: (row, column) of each cell that is significant after the table's correction.
        caption: The caption in LaTeX. The other formats have a paragraph after the table instead.
    """

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Collection[int] = (0,)
    muted: Collection[int] = ()
    bold: Collection[tuple[int, int]] = field(default_factory=frozenset)
    caption: str = ""

    @property
    def head(self) -> list[Cell]:
        """The cells of the header."""
        return self._cells(-1, self.header)

    @property
    def body(self) -> list[list[Cell]]:
        """The cells of each row."""
        return [self._cells(number, row) for number, row in enumerate(self.rows)]

    def _cells(self, row: int, texts: Sequence[str]) -> list[Cell]:
        return [
            Cell(text, i in self.text, i in self.muted, (row, i) in self.bold)
            for i, text in enumerate(texts)
        ]


@dataclass(frozen=True)
class Details:
    """A section that is closed until the reader opens it. Only its title is always visible.

    LaTeX has no closed sections: `report.tex` contains the tables of all sections.

    Attributes:
        title: The title.
        blocks: The content.
        on_terminal: True if the command prints the findings of the content on the terminal.
    """

    title: str
    blocks: tuple[Block, ...] = ()
    on_terminal: bool = False


Block = Text | Heading | Picture | Table | Details


def fold(blocks: Sequence[Block], *, on_terminal: bool = False) -> list[Block]:
    """Return each section of the blocks as `Details`; the first block must be a heading."""
    sections: list[Details] = []
    for block in blocks:
        if isinstance(block, Heading):
            sections.append(Details(block.text, on_terminal=on_terminal))
        else:
            sections[-1] = replace(sections[-1], blocks=(*sections[-1].blocks, block))
    return [*sections]


def findings(blocks: Sequence[Block]) -> list[str]:
    """Return the findings to print on the terminal, one sentence each."""
    sentences: list[str] = []
    for block in blocks:
        if isinstance(block, Details) and block.on_terminal:
            sentences += findings(block.blocks)
        elif isinstance(block, Text) and block.finding:
            sentences += block.items or [block.text]
    return sentences


def _tables(blocks: Sequence[Block]) -> Iterator[Table]:
    """Yield all tables in their order, including those in `Details`."""
    for block in blocks:
        if isinstance(block, Details):
            yield from _tables(block.blocks)
        elif isinstance(block, Table):
            yield block


def write(
    folder: Path,
    title: str,
    blocks: Sequence[Block],
    drawn: Sequence[Path],
    files: Mapping[str, str],
) -> list[Path]:
    """Write a report as Markdown, HTML and LaTeX, and additional files; return all paths.

    `report.md` links to the pictures. `report.html` contains them and needs no network.
    `report.tex` contains the tables, for a document that loads the packages booktabs and xcolor.

    Args:
        folder: The folder of the report.
        title: Title of the report.
        blocks: The content.
        drawn: Paths of the pictures, including the SVG file of each `Picture`.
        files: The content of each additional file by name.

    Returns:
        The paths of the written files and of `drawn`.
    """
    pictures = {path.stem: path.read_bytes() for path in drawn if path.suffix == ".svg"}
    names = ("report.md", "report.html", "report.tex")
    content = {"blocks": blocks, "pictures": pictures, "tables": [*_tables(blocks)]}
    reports = {name: _template(name).render(title=title, **content) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**reports, **files}.items():
        write_atomically(folder / name, text.encode())
    return [*(folder / name for name in (*reports, *files)), *drawn]


def fragment(
    title: str,
    claims: Sequence[Mapping[str, Any]],
    listing: Listing | None,
    pictures: Sequence[Path],
) -> str:
    """Return the results of a report as HTML for a notebook, without scripts and other files.

    Args:
        title: The title.
        claims: The decisions on the claims (`Report.claims`).
        listing: The table, or None.
        pictures: PNG files.
    """
    table = caption = None
    if listing is not None:
        table = Table("", listing.header, listing.rows, listing.text, bold=listing.bold)
        caption = listing.caption or listing.title
    content = {path.stem: path.read_bytes() for path in pictures}
    return _template("fragment.html").render(
        title=title, claims=claims, table=table, caption=caption, pictures=content
    )


def tex(text: str) -> str:
    """Return plain text as LaTeX; text in backticks is set in typewriter type."""
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", text.translate(str.maketrans(TEX)))


@cache
def _template(name: str) -> jinja2.Template:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "tex": tex,
        "base64": lambda data: base64.b64encode(data).decode(),
        "quoted": lambda text: Markup(html.escape(text)),
        "inline": lambda text: Markup(
            re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))
        ),
    }
    if name.endswith(".tex"):
        # Jinja's default delimiters consist of braces and percent signs, which LaTeX uses.
        environment.block_start_string, environment.block_end_string = "<%", "%>"
        environment.variable_start_string, environment.variable_end_string = "<<", ">>"
    return environment.get_template(name)
