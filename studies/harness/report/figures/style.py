"""The style of all figures: colour-blind safe and readable in grayscale.

Equal data gives equal bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from studies.harness.evidence.claims import NOT_TESTED, Decision
from studies.harness.evidence.status import LOST
from studies.harness.report.figures.layout import arrange_texts

STYLE: Any = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.edgecolor": "0.3",
    "axes.axisbelow": True, "axes.grid": True, "grid.color": "0.9", "grid.linewidth": 0.6,
    "xtick.color": "0.3", "ytick.color": "0.3", "xtick.labelcolor": "black", "ytick.labelcolor": "black",
    "axes.formatter.useoffset": False,  # tick labels are values, not differences from an offset
    "pdf.fonttype": 42,  # embed TrueType fonts, so that text can be selected
    "svg.hashsalt": "precond",  # without a salt, the identifiers in the file are random
}  # fmt: skip
Style = tuple[str, Any]  # a colour and a kind of line
# The colours of Okabe and Ito; the kinds of lines distinguish them in grayscale.
BLUE, SKY, GREEN, VERMILION, PURPLE, ORANGE, GRAY = (
    "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "0.55",
)  # fmt: skip
LONG, DASH_DOT_DOT, SPARSE = (0, (6, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2.5))
# The styles of lines that do not stand for optimizers, such as layers.
LINES: tuple[Style, ...] = (
    (BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, DASH_DOT_DOT),
)  # fmt: skip
# An optimizer has the same style in all figures.
OPTIMIZERS: dict[str, Style] = {
    "sgd": ("black", "-"), "nysact-s": (BLUE, "-"), "nysact-g": (SKY, LONG), "foof": (GREEN, "-."),
    "kfac": (VERMILION, "--"), "ekfac": (VERMILION, "-"), "eva": (PURPLE, ":"), "steve": (GREEN, "-"),
    "adam": (ORANGE, "--"), "adamw": (ORANGE, "-"), "soap": (PURPLE, "-"), "shampoo": (GRAY, "-"),
    "sketchysgd": (GRAY, "--"), "adahessian": ("black", SPARSE), "skfac": (ORANGE, "-."),
    "ggt": (SKY, "-."), "mfac": (BLUE, "--"), "kbfgs": (PURPLE, DASH_DOT_DOT), "kbfgs-l": (PURPLE, SPARSE),
    "nysact-s+orthogonal": (BLUE, ":"), "muon": (GREEN, "--"), "lion": (PURPLE, "--"),
    "adopt": (ORANGE, ":"), "sophia-h": (VERMILION, "-."), "psgd-kron": (PURPLE, "-."),
    "schedulefree-adamw": (SKY, ":"), "shampoo-graft": (GRAY, "-."),
}  # fmt: skip
# The styles of other optimizers, and of the second and later arms of an optimizer.
SPARE: tuple[Style, ...] = tuple(
    (color, dashes)
    for dashes in (DASH_DOT_DOT, SPARSE)
    for color in (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, GRAY)
)
# The background of text in a panel, which may lie on lines.
BOX: Any = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}
DECADE = 10  # an axis is logarithmic if the values differ by at least this factor
MAP = "cividis"  # perceptually uniform, also for colour-blind readers and in grayscale
NAMES = {
    "sgd": "SGD", "foof": "FOOF", "kfac": "KFAC", "ekfac": "EKFAC", "steve": "STEVE", "soap": "SOAP",
    "nysact-s": "NysAct-S", "nysact-g": "NysAct-G", "adam": "Adam", "adamw": "AdamW", "eva": "Eva",
    "sketchysgd": "SketchySGD", "shampoo": "Shampoo", "adahessian": "AdaHessian",
    "skfac": "SKFAC", "ggt": "GGT", "mfac": "M-FAC", "kbfgs": "K-BFGS", "kbfgs-l": "K-BFGS(L)",
    "muon": "Muon", "lion": "Lion", "adopt": "ADOPT", "sophia-h": "Sophia-H",
    "psgd-kron": "PSGD-Kron", "schedulefree-adamw": "Schedule-Free AdamW",
    "shampoo-graft": "Shampoo-Graft",
}  # fmt: skip


def display(optimizer: str) -> str:
    """Return the name of an optimizer as the papers spell it; other names are not changed.

    The name of the rule in a composed name, such as `nysact-s+orthogonal`, is not changed either.
    """
    base, separator, rule = optimizer.partition("+")
    return NAMES.get(base, base) + separator + rule


def lines(optimizers: Iterable[str]) -> list[Style]:
    """Return the style of the line of each arm, given the optimizers of the arms.

    The first arm of an optimizer has the style of `OPTIMIZERS`; the others take those of `SPARE`.
    """
    known, spare = dict(OPTIMIZERS), itertools.cycle(SPARE)
    return [known.pop(name, None) or next(spare) for name in optimizers]


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


def set_logarithmic(axes: Axes, values: Iterable[float], name: Literal["x", "y"] = "y") -> bool:
    """Make an axis logarithmic if the finite values are positive and span a decade.

    Returns:
        True if the axis is logarithmic; its range then contains the finite values.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) < DECADE * min(finite):
        return False
    limits = (min(finite) / 1.3, 1.3 * max(finite))
    axes.set(**{f"{name}scale": "log", f"{name}lim": limits})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_formatter(_Plain())
    # Ticks between the powers of ten have labels if the axis has fewer than two of them.
    # Beside each other, labels need more room than above each other.
    thresholds = (1.3, 0.4) if name == "x" else (2, 0.6)
    axis.set_minor_formatter(_Plain(minor_thresholds=thresholds))
    return True


def write_decision(figure: Figure, decisions: Sequence[Decision]) -> None:
    """Write the decision on the first tested claim above the panels; nothing without one."""
    tested = [decision for decision in decisions if decision.verdict != NOT_TESTED]
    if tested:
        figure.suptitle(f"{tested[0].verdict.capitalize()}: {tested[0].text}", fontsize=10)


def integer_axis(axes: Axes) -> None:
    """Restrict the ticks of the horizontal axis to integers."""
    # With fewer than two integers on the axis, the default `min_n_ticks` of 2 adds fractions.
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def lost_words(arms: Sequence[Mapping[Any, Any]]) -> str:
    """Return the trials of rows of `Evidence.arms` without a result, such as `3 of 5 diverged`."""
    planned = sum(arm["planned"] for arm in arms)
    lost = {status: sum(arm[status] for arm in arms) for status in LOST}
    return ", ".join(f"{number} of {planned} {status}" for status, number in lost.items() if number)


def entries(row: Iterable[Axes]) -> dict[str, Any]:
    """Return the handles of several axes by label, each label once."""
    handles = [axes.get_legend_handles_labels() for axes in row]
    return {label: handle for pair in handles for handle, label in zip(*pair, strict=True)}


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as `<name>.pdf`, `.png` and `.svg`; equal figures have equal bytes.

    Its texts are arranged first (`layout.arrange_texts`), which may make the figure higher.
    """
    arrange_texts(figure)
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
