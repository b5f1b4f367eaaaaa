"""The panels of a judgement's figure that show the effects on a workload.

An effect is the value of the candidate divided by that of the baseline, or their difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from studies.harness.evidence.judgement import Effect
from studies.harness.evidence.metrics import unit
from studies.harness.evidence.scale import Scale
from studies.harness.report.figures.style import set_logarithmic
from studies.harness.report.judgement_sentences import interval, noun

SPREAD = 0.6  # the width over which the points of several candidates are spread, in pairs
LARGEST = 300.0  # the largest logarithm of a ratio on the axis, far inside the range of a float
EMPTY_RANGE = 0.1  # the range of the gains on the axis if no seed has a result of both sides
REFERENCE: Any = {"color": "0.3", "linewidth": 0.8}
MARGIN: Any = {"color": "0.3", "linewidth": 0.8, "linestyle": (0, (1, 2))}
POINT: Any = {"marker": "o", "linestyle": "", "markersize": 3, "markeredgewidth": 0}
LOST: Any = {"marker": "x", "linestyle": "", "markersize": 5}
MEAN: Any = {"marker": "D", "linestyle": "", "markersize": 4, "markeredgecolor": "white"}
BEST_EDGE, WORST_EDGE = 0.03, 0.97  # of trials without a result, if larger effects are worse


def draw_seeds(
    axes: Axes, effects: Sequence[Effect], names: Sequence[str], colors: Sequence[str]
) -> None:
    """Draw the effects over the pairs of seeds, with the confidence sequences as bands."""
    scale = effects[0].scale
    _set_limits(axes, effects, "y")
    _references(axes.axhline, scale)
    width = SPREAD if len(effects) > 1 else 0.0
    shifts = np.linspace(-width / 2, width / 2, len(effects))
    for effect, color, shift in zip(effects, colors, shifts, strict=True):
        pairs = 1 + np.arange(len(effect.gains))
        _band(axes, effect, pairs, color)
        axes.plot(pairs + shift, _finite(effect), color=color, **POINT)
        for lost, edge in _lost(effect):
            place: Any = {"color": color, "transform": axes.get_xaxis_transform()}
            axes.plot((pairs + shift)[lost], np.full(lost.sum(), edge), **place, **LOST)
    _legend(axes, effects)
    axes.fill_between([], [], [], color="0.3", alpha=0.2, linewidth=0, label="confidence sequence")
    axes.set_ylabel(_label(scale))
    axes.set_xlabel("pairs of seeds")


def draw_candidates(
    axes: Axes, effects: Sequence[Effect], names: Sequence[str], colors: Sequence[str]
) -> None:
    """Draw a row for each candidate: the effects on the seeds, their mean and its interval."""
    scale = effects[0].scale
    _set_limits(axes, effects, "x")
    _references(axes.axvline, scale)
    low, high = axes.get_xlim()
    for row, (effect, color) in enumerate(zip(effects, colors, strict=True)):
        heights = np.full(len(effect.gains), float(row))
        axes.plot(_finite(effect), heights, color=color, alpha=0.4, **POINT)
        ends = np.clip(interval(effect), low / _factor(scale), high / _factor(scale))
        axes.plot(_factor(scale) * ends, [row, row], color=color, linewidth=1.3)
        axes.plot([float(_shown(scale, np.array(effect.mean)))], [row], color=color, **MEAN)
        for lost, edge in _lost(effect):
            place: Any = {"color": color, "transform": axes.get_yaxis_transform()}
            axes.plot(np.full(lost.sum(), edge), heights[lost], **place, **LOST)
    _legend(axes, effects)
    axes.plot([], [], color="0.3", label="mean", **MEAN)
    axes.plot([], [], color="0.3", linewidth=1.3, label="last interval of the mean")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(_label(scale).replace("\n", " "))


def _factor(scale: Scale) -> float:
    """Return the factor from an effect to its value on the axis."""
    return 1.0 if scale.ratio else unit(scale.metric).scale


def _shown(scale: Scale, gains: np.ndarray) -> np.ndarray:
    """Return gains as effects in the unit of the axis."""
    return _factor(scale) * scale.effects(gains)


def _finite(effect: Effect) -> np.ndarray:
    """Return the effect on each seed in the unit of the axis; nan if a side has no result."""
    return _shown(effect.scale, np.where(effect.complete, effect.gains, math.nan))


def _lost(effect: Effect) -> list[tuple[np.ndarray, float]]:
    """Return masks [n] of the pairs in which one side has no result, with places on the axis.

    The pairs that the candidate won are at the edge of the better effects, and those that it lost
    at the edge of the worse effects. A place is a fraction of the axis.
    """
    edges = [BEST_EDGE, WORST_EDGE]
    if effect.scale.effects(np.array(1.0)) > effect.scale.effects(np.array(0.0)):
        edges.reverse()
    return [
        (lost, edge)
        for gain, edge in zip((math.inf, -math.inf), edges, strict=True)
        if (lost := effect.gains == gain).any()
    ]


def _references(draw_line: Any, scale: Scale) -> None:
    """Draw the line of no difference, and those of the margin."""
    draw_line(float(_shown(scale, np.array(0.0))), label="no difference", **REFERENCE)
    for gain in (-scale.margin, scale.margin) if scale.margin else ():
        draw_line(float(_shown(scale, np.array(gain))), label="margin", **MARGIN)


def _set_limits(axes: Axes, effects: Sequence[Effect], name: Literal["x", "y"]) -> None:
    """Set limits that contain the effects on all seeds, the margins and the last intervals.

    An interval extends the axis by at most the range of the effects, because the first intervals
    are wide.
    """
    scale = effects[0].scale
    gains = np.concatenate([effect.gains[np.isfinite(effect.gains)] for effect in effects])
    gains = np.concatenate([gains, [0.0, -scale.margin, scale.margin]])
    low, high = float(gains.min()), float(gains.max())
    room = (high - low) or scale.step or EMPTY_RANGE
    ends = [end for effect in effects for end in effect.interval if math.isfinite(end)]
    low = max(min([low, *ends]), low - room) - 0.1 * room
    high = min(max([high, *ends]), high + room) + 0.1 * room
    ends = np.clip([low, high], -LARGEST, LARGEST) if scale.ratio else np.array([low, high])
    limits = np.sort(_shown(scale, ends)).tolist()
    if not (scale.ratio and set_logarithmic(axes, limits, name)):
        axes.set(**{f"{name}lim": limits})


def _band(axes: Axes, effect: Effect, pairs: np.ndarray, color: str) -> None:
    """Draw the confidence sequence, cut at the limits of the axis."""
    ends = [_shown(effect.scale, end) for end in (effect.low, effect.high)]
    lower, upper = np.clip(np.sort(ends, axis=0), *axes.get_ylim())
    axes.fill_between(pairs, lower, upper, color=color, alpha=0.15, linewidth=0)
    if len(pairs) == 1:  # the band of a single point has no area
        axes.vlines(pairs, lower, upper, color, alpha=0.3)


def _legend(axes: Axes, effects: Sequence[Effect]) -> None:
    """Add the entries of the legend that do not depend on the candidate."""
    axes.plot([], [], color="0.3", label="effect on a seed", **POINT)
    if any(_lost(effect) for effect in effects):
        axes.plot([], [], color="0.3", label="one side has no result", **LOST)


def _label(scale: Scale) -> str:
    """Return the label of an axis of effects."""
    if scale.ratio:
        return f"{noun(scale)},\ncandidate / baseline"
    percent = " (%)" if unit(scale.metric).percent else ""
    return f"{noun(scale)}{percent},\ncandidate - baseline"
