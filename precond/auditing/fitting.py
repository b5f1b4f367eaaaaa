"""Search for the conventions that reproduce the updates of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

from torch import Tensor

from precond.auditing.catalogue import alternatives
from precond.auditing.conventions import Conventions, differences, used_values
from precond.auditing.estimation import error, estimate
from precond.auditing.trajectory import Trajectory

DEPTH = 2  # conventions that are changed at once


@dataclass(frozen=True)
class Observed:
    """Updates to reproduce.

    Attributes:
        trajectory: The weights and the gradients (or directions) of each step.
        updates: The updates, `[T, D]`.
        limit: The largest relative difference that counts as rounding.
    """

    trajectory: Trajectory
    updates: Tensor
    limit: float

    @cached_property
    def rows(self) -> list[Tensor]:
        """The update of each step, `[D]`."""
        return list(self.updates)

    def reproduced_by(self, conventions: Conventions) -> bool:
        """Return True if the reference has the same updates, except for rounding."""
        return error(conventions, self.trajectory, self.rows, self.limit) <= self.limit


def fit(
    observed: Observed,
    starts: Sequence[Conventions],
    suggestions: Mapping[str, float],
    depth: int = DEPTH,
    estimates: int = DEPTH,
) -> list[Conventions]:
    """Return the conventions that reproduce the updates with the fewest changes of a start.

    The list is empty if no member of the family reproduces them with at most `depth` changes. It
    has several members if this run does not distinguish them.

    Args:
        observed: The updates.
        starts: The conventions to change, the most likely first.
        suggestions: Values that the other optimizer declares.
        depth: The largest number of changes.
        estimates: The largest number of changes if some of them are estimated values. A search
            with estimates takes about ten times as long as one without them.
    """
    for size in range(depth + 1):
        matches: list[Conventions] = []
        for start in starts:
            matches += (c for c in _changed(start, suggestions, size) if observed.reproduced_by(c))
        if not matches and 0 < size <= estimates:
            for start in starts:
                matches += _estimated(observed, start, suggestions, size)
        if matches:
            return list(dict.fromkeys(matches))
    return []


def simplified(observed: Observed, conventions: Conventions, target: Conventions) -> Conventions:
    """Return the conventions with as many choices of `target` as still reproduce the updates."""
    for name in differences(conventions, target):
        candidate = replace(conventions, **{name: getattr(target, name)})
        if observed.reproduced_by(candidate):
            conventions = candidate
    return conventions


def _changed(
    start: Conventions, suggestions: Mapping[str, float], size: int
) -> Iterator[Conventions]:
    """Yield the conventions with `size` changes of `start`."""
    changes = list(alternatives(start, suggestions))
    for selection in combinations(changes, size):
        if len({name for name, _ in selection}) == size:
            yield replace(start, **dict(selection))


def _estimated(
    observed: Observed, start: Conventions, suggestions: Mapping[str, float], size: int
) -> Iterator[Conventions]:
    """Yield the conventions with `size` changes, of which at least one is an estimated value."""
    for number in range(size, 0, -1):
        for base in _changed(start, suggestions, size - number):
            for names in combinations(used_values(base), number):
                result = estimate(
                    base, names, observed.trajectory, observed.updates, observed.limit
                )
                if result is not None:
                    yield result
