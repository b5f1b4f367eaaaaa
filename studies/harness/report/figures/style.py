"""The style of all figures: colour-blind safe and readable in grayscale.

Equal data gives equal bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

STYLE: Any = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.edgecolor": "0.3",
    "axes.axisbelow": True, "axes.grid": True, "grid.color": "0.9", "grid.linewidth": 0.6,
    "xtick.color": "0.3", "ytick.color": "0.3", "xtick.labelcolor": "black", "ytick.labelcolor": "black",
    "pdf.fonttype": 42,  # embed TrueType fonts, so that text can be selected
    "svg.hashsalt": "precond",  # without a salt, the identifiers in the file are random
}  # fmt: skip
# The colours of Okabe and Ito; line styles distinguish them in grayscale.
SUBJECT = "#0072B2"  # the subject of the study
REFERENCES = (
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
)
# The optimizers in FIXED have the same style in all figures that use `lines`. The other optimizers
# take the styles of OTHERS in turn: five colours, each with three kinds of lines.
FIXED = {"sgd": ("black", "-"), "nysact-s": (SUBJECT, "-"), "nysact-g": ("#56B4E9", (0, (6, 2)))}
_FIRST = (*REFERENCES, ("0.55", (0, (3, 1, 1, 1))))
OTHERS = (
    *_FIRST,
    *((color, "-") for color, _ in _FIRST),
    *((color, (0, (1, 2.5))) for color, _ in _FIRST),
)
MAP = "cividis"  # perceptually uniform, also for colour-blind readers and in grayscale
NAMES = {
    "sgd": "SGD", "foof": "FOOF", "kfac": "KFAC", "ekfac": "EKFAC", "steve": "STEVE", "soap": "SOAP",
    "nysact-s": "NysAct-S", "nysact-g": "NysAct-G", "adam": "Adam", "adamw": "AdamW", "eva": "Eva",
    "sketchysgd": "SketchySGD", "shampoo": "Shampoo", "adahessian": "AdaHessian",
}  # fmt: skip


def display(optimizer: str) -> str:
    """Return the name of an optimizer as the papers spell it; other names are not changed."""
    return NAMES.get(optimizer, optimizer)


def lines(optimizers: Iterable[str]) -> dict[str, Any]:
    """Return the colour and the dashes of each optimizer's line."""
    others = itertools.cycle(OTHERS)
    return {name: FIXED.get(name) or next(others) for name in optimizers}


def panels(
    size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure of a size in inches and its axes [rows, columns].

    Call this function inside `matplotlib.rc_context(STYLE)`.
    """
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


class _Plain(LogFormatter):
    """Labels such as `0.2` instead of powers of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def set_logarithmic(axes: Axes, values: Iterable[float]) -> bool:
    """Make the vertical axis logarithmic if all finite values are positive.

    Returns:
        True if the axis is logarithmic; its range then contains the finite values.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0:
        return False
    axes.set_yscale("log")
    axes.set_ylim(min(finite) / 1.3, 1.3 * max(finite))
    axes.yaxis.set_major_formatter(_Plain())
    # Ticks between the powers of ten have labels if the axis has fewer than two of them.
    axes.yaxis.set_minor_formatter(_Plain(minor_thresholds=(2, 0.6)))
    return True


def legend(figure: Figure, row: Iterable[Axes], columns: int) -> None:
    """Add one legend below several axes, with each label once."""
    handles = [axes.get_legend_handles_labels() for axes in row]
    entries = {label: handle for pair in handles for handle, label in zip(*pair, strict=True)}
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=min(len(entries), columns),
    )


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as `<name>.pdf`, `.png` and `.svg`; equal figures have equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without these entries, the files would contain dates and the version of matplotlib.
    blank: dict[str, dict[str, None]] = {
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
    }
    paths = [folder / f"{name}{suffix}" for suffix in blank]
    for path in paths:
        figure.savefig(path, dpi=200, metadata=blank[path.suffix])
    return paths
