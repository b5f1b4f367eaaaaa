"""A report as blocks, rendered to Markdown, LaTeX and HTML by the templates. Equal blocks give equal bytes."""

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
    """A paragraph. A word in backticks is code.

    Attributes:
        text: The paragraph.
        label: A bold word before it.
        note: True for small print.
        items: A list after the paragraph.
        found: True if the text (or each of its items) is a finding, which the command also prints at its end.
    """

    text: str
    label: str = ""
    note: bool = False
    items: tuple[str, ...] = ()
    found: bool = False


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
    """A cell of a table: its text and how it is set."""

    text: str
    left: bool
    muted: bool
    bold: bool


@dataclass(frozen=True)
class Table:
    """A table of formatted cells.

    Attributes:
        name: The label in LaTeX.
        header: The title of each column.
        rows: The cells, one for each column.
        text: Columns of words, which are aligned left.
        muted: Columns that are context and not a result.
        bold: (row, column) of each cell that is significant after the table's correction.
        caption: One line, in LaTeX only. The other formats have the paragraph after the table.
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
    texts = [block for block in blocks if isinstance(block, Text) and block.found]
    return [sentence for text in texts for sentence in text.items or [text.text]]


def write(
    folder: Path,
    title: str,
    blocks: Sequence[Block],
    drawn: Sequence[Path],
    files: Mapping[str, str],
) -> list[Path]:
    """Write a report as Markdown, HTML and LaTeX, and the content of further `files`; return all files with `drawn`.

    `report.md` refers to the picture files, `report.html` contains them and needs no network, and `report.tex` has the
    tables, for a document that loads the packages booktabs and xcolor. `drawn` has the SVG of each `Picture`.
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
    """Return plain text as LaTeX, with the words in backticks as typewriter text."""
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
    if name.endswith(
        ".tex"
    ):  # Jinja2's default delimiters consist of LaTeX's braces and percent signs.
        environment.block_start_string, environment.block_end_string = "<%", "%>"
        environment.variable_start_string, environment.variable_end_string = "<<", ">>"
    return environment.get_template(name)
