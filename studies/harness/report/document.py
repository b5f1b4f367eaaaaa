"""A report as a list of blocks, rendered to Markdown, LaTeX and HTML by Jinja templates.

Equal blocks give equal bytes.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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


Block = Text | Heading | Picture | Table


def findings(blocks: Sequence[Block]) -> list[str]:
    """Return the findings of a report, one sentence each."""
    texts = [block for block in blocks if isinstance(block, Text) and block.finding]
    return [sentence for text in texts for sentence in text.items or [text.text]]


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
    reports = {
        name: _template(name).render(title=title, blocks=blocks, pictures=pictures)
        for name in names
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**reports, **files}.items():
        write_atomically(folder / name, content.encode())
    return [*(folder / name for name in (*reports, *files)), *drawn]


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
