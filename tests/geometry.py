"""Check the places of the texts of a figure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

TOLERANCE = 1.5  # pixels; the extent of a text includes an empty border


def faults(figure: Figure) -> list[str]:
    """Return a line for each text that is cut by the edge of the figure or lies on another one.

    Texts inside the panels, such as those of marks, may lie on one another.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, frame = canvas.get_renderer(), figure.bbox
    extents: list[tuple[str, Bbox]] = []
    lines = []
    for text, inside in _texts(figure):
        if not text.get_text().strip() or not text.get_visible():
            continue
        extent, content = text.get_window_extent(renderer), text.get_text()
        empty = (len(content) - len(content.lstrip("\n"))) / (content.count("\n") + 1)
        extent = Bbox.from_extents(
            extent.x0, extent.y0, extent.x1, extent.y1 - empty * extent.height
        )
        name = repr(content)
        cut = (extent.x0, extent.y0, frame.width - extent.x1, frame.height - extent.y1)
        if min(cut) < -TOLERANCE:
            lines.append(f"{name} is cut by the edge of the figure: {[round(x) for x in cut]}")
        if not inside:
            extents.append((name, extent))
    return lines + [
        f"{name} lies on {other}"
        for (name, first), (other, second) in itertools.combinations(extents, 2)
        if min(first.x1, second.x1) - max(first.x0, second.x0) > TOLERANCE
        and min(first.y1, second.y1) - max(first.y0, second.y0) > TOLERANCE
    ]


def _texts(figure: Figure) -> Iterator[tuple[Text, bool]]:
    """Yield each text, and True if it is inside a panel."""
    if (title := getattr(figure, "_suptitle", None)) is not None:
        yield title, False
    for legend in figure.legends:
        yield from ((text, False) for text in _legend_texts(legend))
    for axes in figure.axes:
        yield from _axes_texts(axes)


def _legend_texts(legend: Legend) -> list[Text]:
    return [legend.get_title(), *legend.get_texts()]


def _axes_texts(axes: Axes) -> Iterator[tuple[Text, bool]]:
    yield from ((text, True) for text in axes.texts)
    if (legend := axes.get_legend()) is not None:
        yield from ((text, False) for text in _legend_texts(legend))
    if not axes.axison:
        return
    yield from ((text, False) for text in (axes.title, axes.xaxis.label, axes.yaxis.label))
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if low <= tick.get_loc() <= high and tick.label1.get_visible():
                yield tick.label1, False
