"""Hyperparameters as dataclass fields that know their allowed range.

Use: `damping: float = positive(1.0)`. `problems(config)` lists every wrong value of a dataclass instance in one go, as
`damping = 0: must be a finite number > 0`.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class HyperparameterError(ValueError):
    """One or more hyperparameters are wrong; the message has one line for each."""


def _field(default: Any, allowed: str, accepts: Callable[[Any], bool]) -> Any:
    return dataclasses.field(default=default, metadata={"allowed": allowed, "accepts": accepts})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def positive(default: float) -> Any:
    """A finite number > 0."""
    return _field(default, "a finite number > 0", lambda v: _is_number(v) and v > 0)


def non_negative(default: float) -> Any:
    """A finite number >= 0."""
    return _field(default, "a finite number >= 0", lambda v: _is_number(v) and v >= 0)


def fraction(default: float) -> Any:
    """A number in [0, 1)."""
    return _field(default, "a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1)


def probability(default: float) -> Any:
    """A number in [0, 1]."""
    return _field(default, "a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1)


def amounts(default: tuple[float, float]) -> Any:
    """A pair of numbers >= 0."""

    def accepts(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_number(v) and v >= 0 for v in value)

    return _field(default, "two numbers >= 0", accepts)


def fractions(default: tuple[float, float]) -> Any:
    """A pair of numbers in [0, 1)."""

    def accepts(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_number(v) and 0 <= v < 1 for v in value)

    return _field(default, "two numbers in [0, 1)", accepts)


def count(default: int, low: int = 1) -> Any:
    """An integer >= low."""
    return _field(
        default, f"an integer >= {low}", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low
    )


def flag(default: bool) -> Any:
    """True or False."""
    return _field(default, "true or false", lambda v: isinstance(v, bool))


def choice(*values: str) -> Any:
    """One of the given words; the first is the default."""
    return _field(values[0], f"one of {', '.join(values)}", lambda v: v in values)


def alike(default: Any) -> Any:
    """Whatever has the type of the default; a finite number, or one of torch.optim's tuples of numbers, or a word."""
    if isinstance(default, (bool, str)) or default is None:
        kind = type(default)
        return _field(default, f"of type {kind.__name__}, as {default!r} is", lambda v: isinstance(v, kind))
    if isinstance(default, int):
        return _field(default, "an integer", lambda v: isinstance(v, int) and not isinstance(v, bool))
    if isinstance(default, (tuple, list)):
        length = len(default)
        return _field(
            default,
            f"{length} numbers",
            lambda v: isinstance(v, (tuple, list)) and len(v) == length and all(map(_is_number, v)),
        )
    return _field(default, "a finite number", _is_number)


def optional(field: Any) -> Any:
    """A field of this module that takes None, too."""
    allowed, accepts = field.metadata["allowed"], field.metadata["accepts"]
    return _field(field.default, f"{allowed}, or None", lambda v: v is None or accepts(v))


def problems(config: Any) -> list[str]:
    """One line for each field of a dataclass instance whose value is out of its range."""
    return [
        f"{field.name} = {getattr(config, field.name)!r}: must be {field.metadata['allowed']}"
        for field in dataclasses.fields(config)
        if not field.metadata["accepts"](getattr(config, field.name))
    ]


def unknown(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """One line for each name that is not known, with the nearest known one."""
    known = list(known)
    return [f"{name}: unknown hyperparameter.{nearest(name, known)}" for name in names if name not in known]


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean "x"? Known: ...` for an unknown name; the question only when something is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    question = f' Did you mean "{close[0]}"?' if close else ""
    return f"{question} Known: {', '.join(known)}"


def make(*kinds: type, values: Mapping[str, Any]) -> list[Any]:
    """Split keyword arguments over dataclasses by field name and check them all at once.

    Args:
        kinds: Dataclasses whose fields are made by this module; a field belongs to one of them.
        values: Keyword arguments; fields not named keep their defaults.

    Returns:
        One instance of each kind, in order.

    Raises:
        HyperparameterError: Names every unknown keyword and every value out of range.
    """
    made, wrong = split(*kinds, values=values)
    if wrong:
        raise HyperparameterError("\n".join(wrong))
    return made


def split(*kinds: type, values: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """What `make` returns, and a line for each thing that it would raise for."""
    names = [[field.name for field in dataclasses.fields(kind)] for kind in kinds]
    wrong = unknown(values, itertools.chain(*names))
    made = [
        kind(**{name: values[name] for name in mine if name in values}) for kind, mine in zip(kinds, names, strict=True)
    ]
    return made, wrong + [line for config in made for line in config.problems()]
