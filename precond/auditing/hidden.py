"""Find the conventions that an audit cannot distinguish at the given values."""

from __future__ import annotations

from dataclasses import replace

from precond.auditing.catalogue import CATALOGUE
from precond.auditing.conventions import Conventions
from precond.auditing.explanation import Pair, references


def hidden(pair: Pair) -> list[str]:
    """Return a line for each convention of which two choices give the updates of a side.

    The list is empty if the reference computes neither side.
    """
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
