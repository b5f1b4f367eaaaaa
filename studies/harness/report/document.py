"""A report as blocks, and what it looks like in Markdown, LaTeX and HTML. Equal blocks give equal bytes."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap; } td.text, th.text { text-align: left; }
thead th { border-top: 2px solid #222; border-bottom: 1px solid #222; } tbody { border-bottom: 2px solid #222; }
.muted { color: #767676; } .note { font-size: 0.85rem; color: #555; } .wide { overflow-x: auto; }
img { max-width: 100%; } code { background: #f3f3f3; padding: 0 0.2em; }
""".strip()


@dataclass(frozen=True)
class Text:
    """A paragraph; a word in backticks is code.

    Attributes:
        text: What it says.
        label: A bold word before it.
        note: Whether it is small print.
        items: A list under it.
        found: Whether it is a finding (or its items are): the end of the command's output says it, too.
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
    """A figure, of which there are `<name>.png` and `<name>.svg`."""

    name: str
    alt: str


@dataclass(frozen=True)
class Table:
    """Cells as they are printed.

    Attributes:
        name: Label in LaTeX.
        header: One word for each column.
        rows: As many cells each.
        text: Columns that hold words and are flush left.
        muted: Columns that are there to be seen beside the result and are not the result.
        bold: (row, column) of cells that survive the table's correction.
        caption: One line, in LaTeX only: the others have the paragraph after the table.
    """

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Collection[int] = (0,)
    muted: Collection[int] = ()
    bold: Collection[tuple[int, int]] = field(default_factory=frozenset)
    caption: str = ""


Block = Text | Heading | Picture | Table


class Written(NamedTuple):
    """A report: its files, and what it found, a sentence each."""

    paths: list[Path]
    found: list[str]


def findings(blocks: Sequence[Block]) -> list[str]:
    """What a report found, a sentence each."""
    texts = [block for block in blocks if isinstance(block, Text) and block.found]
    return [sentence for text in texts for sentence in text.items or [text.text]]


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The report as Markdown, with pictures as files beside it."""
    return "\n\n".join([f"# {title}", *map(_markdown, blocks)]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"## {block.text}"
        case Picture():
            return f"![{block.alt}]({block.name}.png)"
        case Text():
            label = f"**{block.label}.** " if block.label else ""
            body = f"*{block.text}*" if block.note else label + block.text
            return "\n".join(filter(None, [body, *(f"- {item}" for item in block.items)]))
        case Table():
            rule = ["---" if i in block.text else "---:" for i in range(len(block.header))]
            rows = [
                [_markdown_cell(block, cell, i, j) for j, cell in enumerate(row)] for i, row in enumerate(block.rows)
            ]
            return "\n".join("| " + " | ".join(cells) + " |" for cells in [block.header, rule, *rows])


def _markdown_cell(table: Table, cell: str, row: int, column: int) -> str:
    cell = cell.replace("|", "\\|")
    if (row, column) in table.bold:
        return f"**{cell}**"
    return f"<sub>{cell}</sub>" if column in table.muted else cell


def latex(title: str, blocks: Sequence[Block]) -> str:
    """The report's tables, to be put into a document that has the packages booktabs and xcolor."""
    tables = [_latex(block) for block in blocks if isinstance(block, Table)]
    return "\n".join([f"% {title}: needs \\usepackage{{booktabs, xcolor}}", *tables]) + "\n"


def _latex(table: Table) -> str:
    columns = "".join("l" if i in table.text else "r" for i in range(len(table.header)))
    lines = [
        " & ".join(_latex_cell(table, cell, i, j) for j, cell in enumerate(row)) + r" \\"
        for i, row in enumerate(table.rows)
    ]
    header = " & ".join(tex(name) for name in table.header) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            header,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex_cell(table: Table, cell: str, row: int, column: int) -> str:
    cell = tex(cell)
    if cell.startswith("["):
        cell = "{" + cell + "}"  # after a line's end a bracket would be read as its argument
    if (row, column) in table.bold:
        return rf"\textbf{{{cell}}}"
    return rf"\textcolor{{gray}}{{{cell}}}" if column in table.muted else cell


def tex(text: str) -> str:
    """Plain text as LaTeX; words in backticks are typewriter."""
    escaped = "".join(TEX.get(letter, letter) for letter in text)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)


def page(title: str, blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """The report as one HTML file that needs no other and no network.

    Args:
        title: Of the page.
        blocks: The report.
        pictures: The SVG of each `Picture` by its name.
    """
    body = "\n".join(_html(block, pictures) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{html.escape(title)}</title>\n'
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{_inline(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Heading():
            return f"<h2>{_inline(block.text)}</h2>"
        case Picture():
            data = base64.b64encode(pictures[block.name]).decode()
            return f'<p><img alt="{html.escape(block.alt)}" src="data:image/svg+xml;base64,{data}"></p>'
        case Text():
            label = f"<strong>{_inline(block.label)}.</strong> " if block.label else ""
            items = "".join(f"<li>{_inline(item)}</li>" for item in block.items)
            start = '<p class="note">' if block.note else "<p>"
            return f"{start}{label}{_inline(block.text)}</p>" + (f"<ul>{items}</ul>" if items else "")
        case Table():
            return _html_table(block)


def _html_table(table: Table) -> str:
    def cells(tag: str, row: Sequence[str], bold: Collection[int] = ()) -> str:
        parts = []
        for i, cell in enumerate(row):
            kinds = [name for name, columns in (("text", table.text), ("muted", table.muted)) if i in columns]
            text = f"<strong>{_inline(cell)}</strong>" if i in bold else _inline(cell)
            parts.append(f'<{tag} class="{" ".join(kinds)}">{text}</{tag}>' if kinds else f"<{tag}>{text}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    rows = [cells("td", row, {j for k, j in table.bold if k == i}) for i, row in enumerate(table.rows)]
    head = cells("th", table.header)
    return f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))
