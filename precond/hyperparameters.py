"""Hyperparameters as dataclass fields with an allowed range, choices and the paper's symbol.

For example, `damping: float = positive(1.0, symbol="rho")`. `problems(config)` returns one line for
each value of a dataclass instance that is out of range, such as
`damping = 0: must be a finite number > 0`. This module does not import torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from precond.counts import counted


class HyperparameterError(ValueError):
    """One or more hyperparameters are invalid; the message has one line for each."""


class Hyperparameters:
    """Base class of dataclasses of hyperparameters."""

    def problems(self) -> list[str]:
        """Return one line for each value out of range."""
        return problems(self)


def _field(
    default: Any,
    allowed: str,
    accepts: Callable[[Any], bool],
    symbol: str = "",
    choices: tuple[str, ...] = (),
    real: bool = False,
) -> Any:
    metadata = {"allowed": allowed, "accepts": accepts, "symbol": symbol, "choices": choices}
    metadata["real"] = real  # True if 1 and 1.0 are the same value
    return dataclasses.field(default=default, metadata=metadata)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: Any) -> bool:
    """Return True for an int that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _are(accepts: Callable[[Any], bool], length: int = 2) -> Callable[[Any], bool]:
    """Return a predicate that is True for a tuple or list of `length` accepted values."""
    return lambda value: (
        isinstance(value, (tuple, list)) and len(value) == length and all(map(accepts, value))
    )


def _match(predicates: Sequence[Callable[[Any], bool]], value: Any) -> bool:
    """Return True for a tuple or list with one accepted value for each predicate."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == len(predicates)
        and all(accepts(part) for accepts, part in zip(predicates, value, strict=True))
    )


def positive(default: float, symbol: str = "") -> Any:
    """Return a field for a finite number > 0."""
    return _field(
        default, "a finite number > 0", lambda v: _is_number(v) and v > 0, symbol, real=True
    )


def non_negative(default: float, symbol: str = "") -> Any:
    """Return a field for a finite number >= 0."""
    allowed = "a finite number >= 0"
    return _field(default, allowed, lambda v: _is_number(v) and v >= 0, symbol, real=True)


def learning_rate(default: float, symbol: str = "") -> Any:
    """Return a field for a learning rate: a finite number >= 0, or a tensor with one number."""
    return _field(
        default,
        "a finite number >= 0",  # tensors are rare, so the message omits them
        lambda v: v.numel() == 1 if hasattr(v, "numel") else _is_number(v) and v >= 0,
        symbol,
        real=True,
    )


def fraction(default: float | None, symbol: str = "") -> Any:
    """Return a field for a number in [0, 1)."""
    return _field(default, "a number in [0, 1)", _is_fraction, symbol, real=True)


def positive_fraction(default: float, symbol: str = "") -> Any:
    """Return a field for a number in (0, 1]."""
    return _field(
        default, "a number in (0, 1]", lambda v: _is_number(v) and 0 < v <= 1, symbol, real=True
    )


def probability(default: float) -> Any:
    """Return a field for a number in [0, 1]."""
    return between(default, 0, 1)


def between(default: float, low: float, high: float) -> Any:
    """Return a field for a number in [low, high]."""
    allowed = f"a number in [{low:g}, {high:g}]"
    return _field(default, allowed, lambda v: _is_number(v) and low <= v <= high, real=True)


def amounts(default: tuple[float, float]) -> Any:
    """Return a field for a pair of numbers >= 0."""
    return _field(default, "two numbers >= 0", _are(lambda v: _is_number(v) and v >= 0))


def fractions(default: tuple[float, float], symbol: str = "") -> Any:
    """Return a field for a pair of numbers in [0, 1)."""
    return _field(default, "two numbers in [0, 1)", _are(_is_fraction), symbol)


def count(default: int, low: int = 1, symbol: str = "") -> Any:
    """Return a field for an integer >= low."""
    return _field(default, f"an integer >= {low}", lambda v: is_integer(v) and v >= low, symbol)


def flag(default: bool) -> Any:
    """Return a field for True or False."""
    return _field(default, "true or false", lambda v: isinstance(v, bool))


def choice(*values: str) -> Any:
    """Return a field for one of these words; the first is the default."""
    return _field(values[0], f"one of {', '.join(values)}", lambda v: v in values, choices=values)


def alike(default: Any) -> Any:
    """Return a field for a value of the default's type.

    The default is a finite number, a bool, a string, None, or a tuple of these.
    """
    if isinstance(default, (bool, str)) or default is None:
        kind = type(default)
        allowed = f"of type {kind.__name__}, like the default {default!r}"
        return _field(default, allowed, lambda v: isinstance(v, kind))
    if isinstance(default, int):
        return _field(default, "an integer", is_integer)
    if isinstance(default, (tuple, list)):
        if not default:
            return _field(default, "an empty tuple", _are(_is_number, 0))
        if all(map(_is_number, default)):
            return _field(default, counted(len(default), "number"), _are(_is_number, len(default)))
        parts = [_is_number if _is_number(v) else alike(v).metadata["accepts"] for v in default]
        allowed = f"{counted(len(default), 'value')} of the types in the default {default!r}"
        return _field(default, allowed, lambda v: _match(parts, v))
    return _field(default, "a finite number", _is_number, real=True)


def optional(field: Any) -> Any:
    """Return a copy of a field that also accepts None."""
    data = dict(field.metadata)
    allowed, accepts = data.pop("allowed"), data.pop("accepts")
    return _field(field.default, f"{allowed}, or None", lambda v: v is None or accepts(v), **data)


KINDS: Mapping[type, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    float: (("a finite number",), _is_number),
    int: (("an integer",), is_integer),
    bool: (("true", "false"), lambda v: isinstance(v, bool)),
    str: (("a text",), lambda v: isinstance(v, str)),
}
"""The types of hyperparameters: what is allowed, and a predicate."""


def of_kinds(default: Any, kinds: Sequence[type], none: bool) -> Any:
    """Return a field for values of some keys of `KINDS`.

    Args:
        default: The default, or None.
        kinds: The types. An integer is a number, so 1 and 1.0 are the same value for a float. If
            int is a kind, too, they are different values, because a function can distinguish them.
        none: Accept None, too.
    """
    predicates = [KINDS[kind][1] for kind in kinds]
    words = [w for k in kinds if k is not int or float not in kinds for w in KINDS[k][0]]
    if none:
        allowed = f"{', '.join(words)}, or None"
    elif len(words) > 2:
        allowed = f"{', '.join(words[:-1])}, or {words[-1]}"
    else:
        allowed = " or ".join(words)

    def accepts(value: Any) -> bool:
        return (none and value is None) or any(accepted(value) for accepted in predicates)

    return _field(default, allowed, accepts, real=float in kinds and int not in kinds)


def known_names() -> set[str]:
    """Return the names of all hyperparameters of all classes that have been imported."""
    kinds, names = [Hyperparameters], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        names |= set(getattr(kind, "__dataclass_fields__", ()))
    return names


def problems(config: Any) -> list[str]:
    """Return one line for each field of a dataclass instance whose value is out of range."""
    return [
        f"{field.name} = {getattr(config, field.name)!r}: must be {field.metadata['allowed']}"
        for field in dataclasses.fields(config)
        if not field.metadata["accepts"](getattr(config, field.name))
    ]


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about an unknown name: ` Did you mean "x"? Known: ...`.

    If no known name is similar, the question is omitted, and the text `otherwise` is appended. The
    comparison ignores the case.
    """
    known = list(known)
    lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    question = f' Did you mean "{lower[close[0]]}"?' if close else ""
    return f"{question} Known: {', '.join(known)}{'' if close else otherwise}"


def make(*kinds: type, values: Mapping[str, Any]) -> list[Any]:
    """Return an instance of each dataclass, with the values of those keywords that are its fields.

    Args:
        *kinds: Dataclasses without common field names, whose fields are created by functions of
            this module, such as `positive`.
        values: The values by keyword. The default is used for a field without a value.

    Raises:
        HyperparameterError: Lists every unknown keyword and every value out of range.
    """
    configs, errors = split(*kinds, values=values)
    if errors:
        raise HyperparameterError("\n".join(errors))
    return configs


def split(*kinds: type, values: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """Return the instances as `make` does, and one line for each error instead of raising it."""
    fields = {kind: [field.name for field in dataclasses.fields(kind)] for kind in kinds}
    known = [name for names in fields.values() for name in names]
    unknown = [name for name in values if name not in known]
    errors = [f"{name}: unknown hyperparameter.{nearest(name, known)}" for name in unknown]
    configs = [
        kind(**{name: values[name] for name in names if name in values})
        for kind, names in fields.items()
    ]
    return configs, errors + [line for config in configs for line in config.problems()]
