"""Explain the difference between two trajectories by conventions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

from torch import Tensor

from precond.auditing.catalogue import CATALOGUE
from precond.auditing.conventions import (
    FAMILIES,
    Conventions,
    declared,
    differences,
)
from precond.auditing.directions import Change, Method, changes, declared_changes, estimated_changes
from precond.auditing.estimation import error
from precond.auditing.fitting import DEPTH, Observed, fit, simplified
from precond.auditing.problem import Problem
from precond.auditing.sides import Side
from precond.auditing.trajectory import Trajectory

MANY = 4  # with more declared differences, not all of their combinations are tried
# The number of conventions of the reference that may differ, and the changes of a method.
Selection = tuple[int, tuple[Change, ...]]


@dataclass(frozen=True)
class Difference:
    """A convention in which the two sides differ.

    Attributes:
        convention: Its name: a field of `Conventions`, or a hyperparameter of a side.
        title: Its name in words.
        a: What side A does.
        b: What side B does.
    """

    convention: str
    title: str
    a: str
    b: str


@dataclass(frozen=True)
class Explanation:
    """Differences which together reproduce the numbers of both sides.

    Attributes:
        differences: The conventions; all other conventions are equal.
        error: The largest relative difference between an update and the one that the conventions
            give, over both sides, all steps and the explained tensors.
        tensors: The tensors that are explained, if the updates of all others are equal; empty if
            all tensors are explained.
    """

    differences: tuple[Difference, ...]
    error: float
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """Updates, and the conventions that reproduce them."""

    observed: Observed
    conventions: Conventions


@dataclass(frozen=True)
class Pair:
    """The two sides, and what they did along the path of side A.

    Attributes:
        sides: The sides A and B.
        trajectories: Their trajectories; the weights and gradients of both are those of A.
        problem: The model and the batches.
        limit: The largest relative difference that counts as rounding.
    """

    sides: tuple[Side, Side]
    trajectories: tuple[Trajectory, Trajectory]
    problem: Problem
    limit: float

    def observed(self, number: int, directions: Tensor | None = None) -> Observed:
        """Return the updates of a side, as a function of the gradients or of directions."""
        path = self.trajectories[0]
        path = path if directions is None else path.along(directions)
        updates = self.trajectories[number].updates
        return Observed(path, updates, self.limit)

    @property
    def layerwise(self) -> bool:
        """True if a side preconditions layers; the reference cannot reproduce its updates."""
        return any(t.layerwise for t in self.trajectories)


def explain(pair: Pair, differing: Sequence[str]) -> list[Explanation]:
    """Return the smallest explanations; several if this run does not distinguish them.

    Args:
        pair: The two sides.
        differing: The tensors whose updates differ. If no explanation applies to all tensors,
            explanations of these tensors are returned. An example is an optimizer that applies
            its weight decay to matrices only.
    """
    if not pair.layerwise:
        if results := _by_reference(pair):
            return results
        if len(differing) < len(pair.trajectories[0].layout.shapes):
            a, b = (trajectory.restricted(differing) for trajectory in pair.trajectories)
            if results := _by_reference(replace(pair, trajectories=(a, b))):
                return [replace(result, tensors=tuple(differing)) for result in results]
    # A side with more hyperparameters has more changes to try.
    order = sorted((1, 0), key=lambda number: -len(pair.sides[number].settings))
    for neutral in (True, False):
        for number in order:
            if results := _by_method(pair, number, neutral):
                return results
    return []


def _families(*settings: dict[str, float]) -> list[Conventions]:
    """Return the members of all families with declared values; later values have precedence."""
    values = {name: value for group in settings for name, value in group.items()}
    return [replace(family, **values) for family in FAMILIES.values()]


def references(
    pair: Pair, number: int, depth: int = DEPTH, estimates: int = 1
) -> list[Conventions]:
    """Return the conventions that reproduce a side from the gradients (see `fit`)."""
    values, others = (declared(pair.trajectories[n].settings) for n in (number, 1 - number))
    return fit(pair.observed(number), _families(others, values), others, depth, estimates)


def _by_reference(pair: Pair) -> list[Explanation]:
    """Explain both sides as functions of the gradients."""
    for depth in range(1, DEPTH + 1):
        bases = {number: references(pair, number, depth) for number in (0, 1)}
        for number in (0, 1):
            if bases[number] and (results := _from_bases(pair, number, bases[number])):
                return results
        if any(bases.values()):
            break
    return []


def _from_bases(pair: Pair, number: int, bases: Sequence[Conventions]) -> list[Explanation]:
    """Explain the other side by changes of the conventions that reproduce side `number`."""
    known, target = pair.observed(number), pair.observed(1 - number)
    suggestions, values = (declared(pair.trajectories[n].settings) for n in (number, 1 - number))
    starts = dict.fromkeys([*bases, *(replace(base, **values) for base in bases)])
    matches = fit(target, list(starts), values)
    matches = matches or fit(target, _families(values), suggestions, depth=1)
    return _smallest(
        min(
            (_explanation(Fit(known, base), Fit(target, match), number) for base in bases),
            key=lambda explanation: len(explanation.differences),
        )
        for match in matches
    )


def _smallest(explanations: Iterable[Explanation]) -> list[Explanation]:
    """Return the different explanations with the fewest conventions."""
    candidates = list(dict.fromkeys(explanations))
    size = min((len(candidate.differences) for candidate in candidates), default=0)
    return [candidate for candidate in candidates if len(candidate.differences) == size]


def _explanation(
    known: Fit, other: Fit, number: int, changed: Sequence[Change] = ()
) -> Explanation:
    """Return the explanation by the fits of side `number` and of the other side."""
    base, match = known.conventions, other.conventions
    fixed = {"weight_decay"} if any(change.decayed for change in changed) else set()
    match = match if fixed else simplified(other.observed, match, base)
    rows = [(change.title, change.title, change.before, change.after) for change in changed]
    rows += [
        (name, _title(name), _sentence(name, base), _sentence(name, match))
        for name in differences(base, match)
        if name not in fixed
    ]
    order = slice(None, None, -1 if number else 1)  # A first
    results = tuple(Difference(name, title, *sentences[order]) for name, title, *sentences in rows)
    pairs = ((known.observed, base), (other.observed, match))
    errors = [error(c, o.trajectory, o.updates, o.limit) for o, c in pairs]
    return Explanation(results, max(errors))


def _title(name: str) -> str:
    return CATALOGUE[name].title if name in CATALOGUE else f"value of {name}"


def _sentence(name: str, conventions: Conventions) -> str:
    value = getattr(conventions, name)
    return CATALOGUE[name].choices[value] if name in CATALOGUE else f"{name} = {value:.6g}"


def _by_method(pair: Pair, number: int, neutral: bool) -> list[Explanation]:
    """Explain the other side by the directions of side `number`, and by changes of this side."""
    method = Method(pair.sides[number], pair.problem, pair.trajectories[0], neutral)
    plain = _directions(method)
    if plain is None:
        return []
    known = pair.observed(number, plain)
    bases = fit(known, [method.start], {}, estimates=0)
    if not bases:
        return []
    base = bases[0]
    values = declared(pair.trajectories[1 - number].settings)
    starts = list(dict.fromkeys([base, replace(base, **_rule_values(values))]))
    updates = pair.trajectories[1 - number].updates
    estimated = ((0, (change,)) for change in estimated_changes(method, base, updates))
    for stage in chain(_stages(pair, number, base.weight_decay), [estimated]):
        results: list[Explanation] = []
        for depth, changed in stage:
            directions = _directions(method, *changed) if changed else plain
            if directions is None:
                continue
            target = pair.observed(1 - number, directions)
            decayed = any(change.decayed for change in changed)
            begin = [replace(start, weight_decay=0.0) for start in starts] if decayed else starts
            matches = fit(target, begin, values, depth, estimates=0 if changed else 1)
            fits = [Fit(target, match) for match in matches if not (decayed and match.weight_decay)]
            results += [_explanation(Fit(known, base), other, number, changed) for other in fits]
        if results:
            return _smallest(results)
    return []


def _rule_values(values: dict[str, float]) -> dict[str, float]:
    names = ("lr", "beta1", "weight_decay")
    return {name: values[name] for name in names if name in values}


def _stages(pair: Pair, number: int, weight_decay: float) -> Iterator[Iterable[Selection]]:
    """Yield lists of selections, the most likely first."""
    side, other = pair.sides[number], pair.sides[1 - number]
    given = declared_changes(side, other)
    yield [(2, ())]
    many = len(given) > MANY
    for size in (1, len(given)) if many else range(1, len(given) + 1):
        yield [(0, part) for part in combinations(given, size)]
    if given:
        yield [(1, tuple(given))]
    decay = weight_decay or declared(other.settings).get("weight_decay", 0.0)
    yield [(1, (change,)) for change in chain(given, changes(side, decay))]


def _directions(method: Method, *selection: Change) -> Tensor | None:
    """Return the directions, or None if the method refuses the changes."""
    try:
        return method.directions(*selection)
    except Exception:
        return None
