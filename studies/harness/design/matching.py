"""The pairs of arms that a claim compares, selected by the labels of the arms."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from precond.hyperparameters import nearest
from studies.harness.design.claims import Change, Claim, Equivalent, Side


class Match(NamedTuple):
    """A side of a claim without `*`.

    Attributes:
        side: A label, or a change of two labels.
        texts: The text for which each `*` stands.
    """

    side: Side
    texts: tuple[str, ...]


def pairs(claim: Claim, labels: Collection[str]) -> list[tuple[Side, Side]]:
    """Return the pairs (arm, base) that a claim compares, in the order of the labels.

    An arm is never compared with itself.
    """
    arms = matches(claim.arm, labels)
    if not claim.base:
        return [(arm.side, base.side) for arm, base in itertools.combinations(arms, 2)]
    return [(arm.side, base.side) for arm, base in _join(arms, matches(claim.base, labels))]


def matches(side: Side, labels: Collection[str]) -> list[Match]:
    """Return the labels, or the changes between labels, that one side of a claim selects."""
    if isinstance(side, Change):
        joined = _join(matches(side.arm, labels), matches(side.base, labels))
        return [
            Match(Change(str(arm.side), str(base.side)), arm.texts or base.texts)
            for arm, base in joined
        ]
    pattern = _pattern(side)
    candidates = [(label, pattern.fullmatch(label)) for label in labels]
    return [Match(label, match.groups()) for label, match in candidates if match]


def _join(arms: Iterable[Match], bases: Iterable[Match]) -> list[tuple[Match, Match]]:
    """Return the pairs of different sides in which each `*` stands for the same text.

    The first `*` of one side corresponds to the first of the other side, and so on. If one side has
    more `*` than the other, its last ones may stand for any text.
    """
    return [
        (arm, base)
        for arm, base in itertools.product(arms, bases)
        if arm.side != base.side
        and all(text == other for text, other in zip(arm.texts, base.texts, strict=False))
    ]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, text.split("*"))))


def is_on(claim: Claim, workload: str) -> bool:
    """Return True if a claim is tested on a workload."""
    return any(_pattern(text).fullmatch(workload) for text in claim.on)


def unmatched(claim: Claim, labels: Collection[str], where: str) -> str:
    """Return why a claim compares no pair of arms, such as `no arm of this plan is called sgd`.

    Args:
        claim: The claim.
        labels: The labels of all arms.
        where: The name of the set of arms in the message, such as `this plan`.

    Returns:
        A clause, or an empty text if the claim compares at least one pair.
    """
    if pairs(claim, labels):
        return ""
    missing = [label for label in _labels(claim) if not matches(label, labels)]
    if missing:
        return f"no arm of {where} is called {' or '.join(dict.fromkeys(missing))}"
    return f"{where} has no two arms that the claim compares"


def _labels(claim: Claim) -> list[str]:
    """Return the labels in a claim."""
    sides = [claim.arm, *([claim.base] if claim.base else [])]
    return [label for side in sides for label in _parts(side)]


def _parts(side: Side) -> list[str]:
    """Return the labels in one side of a claim."""
    return [*side] if isinstance(side, Change) else [side]


def problems(claims: Any, labels: Collection[str]) -> list[str]:
    """Return a line for each error in the claims of an artefact, except in their metrics.

    Args:
        claims: The field `claims`, as the author of a study file has written it.
        labels: The labels of the arms on all workloads of the artefact.
    """
    if isinstance(claims, Claim | str) or not isinstance(claims, Sequence):
        return ["claims: must be a list, such as [Better(...), NotWorse(...)]"]
    errors = []
    for i, claim in enumerate(claims):
        if isinstance(claim, Claim):
            lines = _type_problems(claim) or [
                *_margin_problems(claim),
                *_side_problems(claim, labels),
                *(["is stated twice"] if claim in claims[:i] else []),
            ]
            errors += [f'claim "{claim.text}": {line}' for line in lines]
        else:
            errors.append(f"claims: {claim!r}: must be Better, NotWorse or Equivalent")
    return errors


def _type_problems(claim: Claim) -> list[str]:
    """Return the errors in the types of the values of a claim."""
    sides = {"arm": claim.arm, **{key: getattr(claim, key, "") for key in ("than", "to")}}
    errors = [
        f"{name} = {side!r}: must be the label of an arm, or a change of two labels"
        for name, side in sides.items()
        if not all(isinstance(label, str) for label in _parts(side))
    ]
    for name in ("points", "share"):
        margin = getattr(claim, name)
        if isinstance(margin, bool) or not isinstance(margin, int | float):
            errors.append(f"{name} = {margin!r}: must be a number")
    if isinstance(claim.on, str):
        errors.append(f'on = "{claim.on}": must be a tuple, such as ("{claim.on}",)')
    elif not _is_texts(claim.on):
        errors.append(f"on = {claim.on!r}: must be a tuple of workloads, such as ('digits/*',)")
    if not isinstance(claim.metric, str):
        errors.append(f"metric = {claim.metric!r}: must be a text")
    return errors


def _is_texts(values: Any) -> bool:
    """Return True if a value is a tuple or list of one or more texts."""
    return (
        isinstance(values, tuple | list)
        and bool(values)
        and all(isinstance(value, str) for value in values)
    )


def _margin_problems(claim: Claim) -> list[str]:
    """Return the errors in the margins of a claim."""
    positive = isinstance(claim, Equivalent)
    allowed = "> 0" if positive else ">= 0"
    errors = [
        f"{name} = {margin}: must be {allowed}"
        for name, margin in (("points", claim.points), ("share", claim.share))
        if not (margin > 0 or (margin == 0 and not positive))
    ]
    if claim.points >= 1:
        errors.append(f"points = {claim.points}: must be < 1; 0.003 is 0.3 percentage points")
    if math.isinf(claim.share):
        errors.append(f"share = {claim.share}: must be finite")
    return errors


def _side_problems(claim: Claim, labels: Collection[str]) -> list[str]:
    """Return the errors in the labels of a claim."""
    if claim.base and isinstance(claim.arm, Change) != isinstance(claim.base, Change):
        return ["a change can only be compared with a change"]
    if not claim.base and not isinstance(claim, Equivalent):
        return ["it has no base"]
    unknown = [label for label in _labels(claim) if not matches(label, labels)]
    if unknown:
        return [f"no arm is called {label}.{_advice(label, labels)}" for label in unknown]
    reason = unmatched(claim, labels, "the study")
    return [reason] if reason else []


def _advice(label: str, labels: Collection[str]) -> str:
    """Return the end of a message about an unknown label."""
    if levels := [known for known in labels if known.startswith(f"{label} ")]:
        return f" Its levels are {', '.join(levels)}; {label} * stands for all of them."
    return nearest(label, labels)
