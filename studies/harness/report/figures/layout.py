"""The arrangement of the texts of a figure: no text is cut, and none lies on another."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

ROOM = 0.9  # the height of a figure includes a legend and a title of this height, in inches
MARGIN = 0.98  # a text has at most this fraction of the width of its figure or panel
SHORTEST = 8  # a text is not broken into lines with fewer characters than this
GAP = 4  # the smallest distance of two tick labels in a row, in pixels


def legend(figure: Figure, handles: Mapping[str, Any], columns: int, title: str = "") -> None:
    """Add a legend with these handles, by label, below the panels.

    It has at most this number of columns, and fewer if it would be wider than the figure. If a
    single column is too wide, the labels are broken into lines.
    """
    if not handles:
        return
    width = room = MARGIN * figure.bbox.width
    for number in range(min(len(handles), columns), 0, -1):
        drawn = _legend(figure, handles, [*handles], number, title)
        width = drawn.get_window_extent(_renderer(figure)).width
        if width <= room:
            return
        drawn.remove()
    longest = int(max(map(len, handles)) * room / width) - len("handle")
    labels = [textwrap.fill(label, max(longest, SHORTEST)) for label in handles]
    _legend(figure, handles, labels, 1, title)


def _legend(
    figure: Figure, handles: Mapping[str, Any], labels: Sequence[str], columns: int, title: str
) -> Legend:
    added = figure.legend(
        handles.values(),
        labels,
        loc="outside lower center",
        ncols=columns,
        title=title or None,
        title_fontsize=8.5,
    )
    shorten(added.get_title(), figure.bbox.width)
    return added


def arrange_texts(figure: Figure) -> None:
    """Break long titles into lines, put crowded tick labels in rows, and add room for the texts."""
    renderer = _renderer(figure)
    outside = [legend.get_window_extent(renderer).height for legend in figure.legends]
    if title := getattr(figure, "_suptitle", None):
        shorten(title, figure.bbox.width)
        outside.append(title.get_window_extent(renderer).height)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + max(0.0, sum(outside) / figure.dpi - ROOM))
    figure.draw_without_rendering()  # the panels have their final widths after this
    for axes in figure.axes:
        shorten(axes.title, axes.bbox.width)
        shorten(axes.xaxis.label, axes.bbox.width)
        shorten(axes.yaxis.label, axes.bbox.height, vertical=True)
        _put_in_rows(axes)


def shorten(text: Text, room: float, *, vertical: bool = False) -> None:
    """Break a text into lines that are not longer than `room`, in pixels."""
    figure = text.get_figure()
    assert isinstance(figure, Figure)
    content, renderer = text.get_text(), _renderer(figure)

    def share() -> float:
        extent = text.get_window_extent(renderer)
        return (extent.height if vertical else extent.width) / (MARGIN * room)

    width = max(map(len, content.split("\n")))
    while (size := share()) > 1 and width > SHORTEST:
        width = max(SHORTEST, min(width - 1, int(1.05 * width / size)))
        text.set_text("\n".join(textwrap.fill(line, width) for line in content.split("\n")))


def _put_in_rows(axes: Axes) -> None:
    """Move each tick label that would touch the label to its left to another row below the axis.

    Only the labels at chosen positions are moved; Matplotlib keeps the others apart.
    """
    if not isinstance(axes.xaxis.get_major_locator(), FixedLocator):
        return
    ticks, renderer = axes.get_xticks(), _renderer(axes.get_figure(root=True))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    extents = [label.get_window_extent(renderer) for label in axes.get_xticklabels()]
    ends: list[float] = []  # the right end of the last label of each row
    moved = list(labels)
    for i in sorted(range(len(labels)), key=lambda i: ticks[i]):
        free = (row for row, end in enumerate(ends) if extents[i].x0 > end + GAP)
        row = next(free, len(ends))
        ends[row : row + 1] = [extents[i].x1]
        moved[i] = "\n" * row + labels[i]
    if moved != labels:
        axes.set_xticks(ticks, moved)


def _renderer(figure: Any) -> Any:
    return FigureCanvasAgg(figure).get_renderer()
