"""Selections: plans in which options of the command change the configurations of an artefact.

A selection has a separate report, so that it does not replace the report of the whole artefact.
The name of the selection is part of the name of the report's folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from precond.hyperparameters import HyperparameterError
from studies.harness.design.options import Options
from studies.harness.kinds.artefact import Plan
from trainables.config import digest

MAX_LENGTH, DIGITS = 120, 10
PREFIXES = {"only": "only.", "levels": "levels.", "settings": "set.", "extra": ""}
# Other texts could be read as a number or as several parts, or are not allowed in a file name.
PLAIN = re.compile(r"(?!(?:true|false|none|null|nan|inf|infinity)\Z)[a-z_][a-z0-9_.-]*", re.I)
AnyPlan = TypeVar("AnyPlan", bound=Plan)


def with_selection(
    plan: AnyPlan, plan_of: Callable[[Options], AnyPlan], identity: Callable[[AnyPlan], Any]
) -> AnyPlan:
    """Return a plan with the name of its selection.

    If the options select exactly the artefact's configurations, return the artefact's own plan.

    Args:
        plan: The plan with the options of the command.
        plan_of: Returns the plan of the same artefact and workload with other options.
        identity: Returns the configurations of a plan without their seeds. They are equal for equal
            configurations, in any order.
    """
    if not plan.options.selecting:
        return plan
    try:
        unselected_plan = plan_of(plan.options.unselected)
    except HyperparameterError:  # the artefact is valid only with the options
        unselected_plan = None
    if unselected_plan is not None and identity(unselected_plan) == identity(plan):
        return replace(unselected_plan, options=plan.options)
    return replace(plan, selection=selection_name(plan.options.selecting))


def selection_name(selecting: Mapping[str, Any]) -> str:
    """Return the name of a selection, such as `optimizers=adam,sgd+epochs=5`.

    The name is valid in file names and URLs. It does not depend on the order of optimizers and
    levels, and two different selections never have the same name: a name that is cut, or that does
    not contain each value exactly, ends in a digest of the values.

    Args:
        selecting: The options (`Options.selecting`).
    """
    parts, exact = [], True
    for option, value in _flat(selecting):
        values = [_text(item) for item in value] if isinstance(value, list) else [_text(value)]
        exact = exact and all(map(_exact, value if isinstance(value, list) else [value]))
        exact = exact and re.fullmatch(r"[A-Za-z0-9_.]+", option) is not None
        parts.append(f"{_text(option)}={','.join(values)}")
    name = "+".join(parts)
    if exact and len(name) <= MAX_LENGTH:
        return name
    values = digest([(option, repr(value)) for option, value in _flat(selecting)])[:DIGITS]
    return f"{name[: MAX_LENGTH - DIGITS - 1]}+{values}"


def _flat(selecting: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the options and their values; lists are sorted and have no duplicates."""
    for option, value in selecting.items():
        named = value.items() if isinstance(value, Mapping) else [("", value)]
        for name, item in sorted(named):
            if isinstance(item, list):
                item = sorted(dict.fromkeys(item), key=_order)
            elif option == "extra" and str(item).isdecimal():  # the text of an option of a kind
                item = int(item)
            yield PREFIXES.get(option, option) + name, item


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, value if number else 0, repr(value)


def _text(value: Any) -> str:
    """Return a value as a part of a file name."""
    if isinstance(value, tuple):
        return "_".join(map(_text, value))
    text = str(value).replace("e+", "e") if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)


def _exact(value: Any) -> bool:
    """Return True if no other value has the same `_text`."""
    if isinstance(value, str):
        return PLAIN.fullmatch(value) is not None
    return value is None or isinstance(value, int) or (isinstance(value, float) and value == value)
