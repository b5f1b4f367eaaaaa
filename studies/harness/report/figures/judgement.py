"""The figure of a judgement: the evidence over the pairs, and the effects on each workload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from studies.harness.evidence.judgement import Verdict
from studies.harness.report.figures import judgement_effects
from studies.harness.report.figures.layout import legend
from studies.harness.report.figures.style import (
    BOX,
    LINES,
    STYLE,
    Style,
    display,
    entries,
    integer_axis,
    lines,
    panels,
    save,
)
from studies.harness.report.judgement_sentences import PHRASES, threshold_text

WIDTH, EVIDENCE, EFFECTS = 5.6, 2.6, 2.4  # inches: the width, and the heights of the panels
ROW = 0.22  # the height of the row of a candidate, in inches
MOST_WORKLOADS = 4
MOST_BY_SEED = 3  # with more candidates than this, their bands would hide the points
LARGEST = 1e12  # the evidence axis ends here
THRESHOLD: Any = {"color": "0.3", "linewidth": 0.8}
DECISION: Any = {"marker": "o", "linestyle": "", "markersize": 4.5}


@matplotlib.rc_context(STYLE)
def draw(verdicts: Sequence[Verdict], folder: Path) -> list[Path]:
    """Draw `judgement.pdf`, `.png` and `.svg`; nothing if no pair of seeds has ended.

    The upper panel has the e-value of each candidate after each pair. Below it is a panel for each
    workload, at most `MOST_WORKLOADS`. It has the effect on each seed and the confidence sequence;
    for more than `MOST_BY_SEED` candidates, it has a row for each of them.

    Returns:
        The paths of the files.
    """
    if not any(verdict.pairs for verdict in verdicts):
        return []
    workloads, by_seed = len(verdicts[0].effects), len(verdicts) <= MOST_BY_SEED
    shown = min(workloads, MOST_WORKLOADS)
    heights = [EVIDENCE, *[EFFECTS if by_seed else max(EFFECTS, 1 + ROW * len(verdicts))] * shown]
    size = (WIDTH, sum(heights))
    figure, grid = panels(size, 1 + shown, gridspec_kw={"height_ratios": heights})
    styles = _styles(verdicts)
    names = [_name(verdict.candidate) for verdict in verdicts]
    evidence, *others = grid[:, 0]
    draw_effects = judgement_effects.draw_seeds if by_seed else judgement_effects.draw_candidates
    for i, axes in enumerate(others):
        effects = [verdict.effects[i] for verdict in verdicts]
        draw_effects(axes, effects, names, [color for color, _ in styles])
        axes.set_title(effects[0].scale.workload)
        if by_seed:
            axes.sharex(evidence)
    _evidence(evidence, verdicts, names, styles)
    figure.suptitle(_title(verdicts), fontsize=10)
    note = f"the first {shown} of {workloads} workloads" if shown < workloads else ""
    legend(figure, entries(grid[:, 0]), 3, note)
    return save(figure, folder, "judgement")


def _title(verdicts: Sequence[Verdict]) -> str:
    if len(verdicts) > 1:
        return f"{len(verdicts)} candidates against {verdicts[0].baseline}"
    [verdict] = verdicts
    if verdict.decision in PHRASES:
        return f"{verdict.candidate} {PHRASES[verdict.decision]} {verdict.baseline}"
    return f"{verdict.candidate} against {verdict.baseline}: {verdict.decision}"


def _styles(verdicts: Sequence[Verdict]) -> Sequence[Style]:
    """Return the style of each candidate; few candidates have different colours."""
    styles = lines([verdict.candidate.partition(" ")[0] for verdict in verdicts])
    distinct = len({color for color, _ in styles}) == len(styles)
    return styles if distinct or len(styles) > len(LINES) else LINES[: len(styles)]


def _name(label: str) -> str:
    """Return the label of a candidate with the name of its optimizer as in the papers."""
    optimizer = label.partition(" ")[0]
    return display(optimizer) + label.removeprefix(optimizer)


def _evidence(
    axes: Axes, verdicts: Sequence[Verdict], names: Sequence[str], styles: Sequence[Style]
) -> None:
    """Draw the e-values, which start at 1, and the thresholds."""
    for verdict, name, (color, dashes) in zip(verdicts, names, styles, strict=True):
        values = np.clip([1.0, *verdict.e_values], 1 / LARGEST, LARGEST)
        look = {"color": color, "linestyle": dashes, "linewidth": 1.3}
        axes.plot(np.arange(len(values)), values, label=name, **look)
        if verdict.decision in PHRASES:
            axes.plot([verdict.pairs], values[-1:], color=color, **DECISION)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ordered = sorted(verdicts, key=lambda verdict: verdict.threshold)
    axes.set_ylim(min(low, 0.1), max(high, 5 * min(ordered[-1].threshold, LARGEST)))
    axes.set_xlim(0, 1.03 * max(2, *(verdict.pairs for verdict in verdicts)))
    _thresholds(axes, ordered[0], ordered[-1])
    if any(verdict.decision in PHRASES for verdict in verdicts):
        axes.plot([], [], color="0.3", label="decision", **DECISION)
    axes.set_ylabel("e-value")
    axes.set_xlabel("pairs of seeds")
    integer_axis(axes)


def _thresholds(axes: Axes, smallest: Verdict, largest: Verdict) -> None:
    """Draw the smallest and the largest threshold, and write their values above them."""
    for verdict in (smallest, largest):
        axes.axhline(verdict.threshold, **THRESHOLD)
    axes.axhspan(smallest.threshold, largest.threshold, color="0.3", alpha=0.1, linewidth=0)
    values = " to ".join(dict.fromkeys([threshold_text(smallest), threshold_text(largest)]))
    font: Any = {"va": "bottom", "fontsize": 7.5, "color": "0.25", "bbox": BOX}
    place = axes.get_yaxis_transform()
    axes.text(0.01, 1.15 * largest.threshold, f"threshold: {values}", transform=place, **font)
