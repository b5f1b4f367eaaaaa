"""Find the conventions that an audit cannot distinguish at the given values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from precond.auditing.catalogue import CATALOGUE
from precond.auditing.conventions import Conventions
from precond.auditing.estimation import deviation
from precond.auditing.explanation import Pair, references
from precond.auditing.running import follow


def undistinguished(pair: Pair) -> list[str]:
    """Return a line for each convention or hyperparameter whose choices give the same updates."""
    return [*_conventions(pair), *_settings(pair)]


def _settings(pair: Pair) -> Iterator[str]:
    """Yield a line for each hyperparameter whose values differ without an effect on side B."""
    (a, b), path = pair.sides, pair.trajectories[0]
    for name, value in b.settings.items():
        if name not in a.settings or a.settings[name] == value:
            continue
        try:
            changed = follow(b, pair.problem, path, **{name: a.settings[name]}).updates
        except Exception:  # the value is not valid together with the others
            continue
        rows = zip(changed, pair.trajectories[1].updates, path.weights, strict=True)
        if all(deviation(u, v, w, path).max() <= pair.limit for u, v, w in rows):
            yield f"{name} (A: {a.settings[name]}, B: {value})"


def _conventions(pair: Pair) -> list[str]:
    """Return a line for each convention; none if the reference reproduces neither side."""
    if pair.layerwise:
        return []
    for number in (0, 1):
        if bases := references(pair, number, depth=1, estimates=0):
            return _indistinct(pair, number, bases[0])
    return []


def _indistinct(pair: Pair, number: int, base: Conventions) -> list[str]:
    observed, lines = pair.observed(number), []
    for name, convention in CATALOGUE.items():
        current = getattr(base, name)
        others = [
            choice
            for choice in convention.differing(base)
            if choice != current
            and not choice.startswith("clipped")  # depends on a bound that is not known
            and observed.reproduced_by(replace(base, **{name: choice}))
        ]
        if others:
            zero = getattr(base, convention.needs) == 0
            reason = f"{convention.needs} = 0" if zero else " = ".join([current, *others])
            lines.append(f"{convention.title} ({reason})")
    return lines
