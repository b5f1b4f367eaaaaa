"""The values of hyperparameters and the names of optimizers in the options of a command."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

# Names in the papers and in their released code: accepted on the command line, and never stored.
ALIASES = {
    "stat_decay": "ema_decay",
    "ema": "ema_decay",
    "tcov": "cov_interval",
    "tinv": "inv_interval",
    "rank_size": "rank",
}


def literal(text: str) -> Any:
    """Return the Python value of a text: an int, a float, a bool, None, or the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def optimizers(text: str) -> list[str]:
    """Return comma-separated names of optimizers, those of pytorch-optimizer in lower case."""
    from precond.peers.library import canonical

    return [canonical(name) for name in text.split(",")]


def levels(texts: Mapping[str, str], names: Sequence[str] | None) -> dict[str, list[Any]]:
    """Return comma-separated values by name; a tuple is spelled `0.9/0.95`."""
    tuples = _tuples(texts, names)
    return {
        name: [_value(part, "/" if name in tuples else None) for part in text.split(",")]
        for name, text in texts.items()
    }


def settings(texts: Mapping[str, str], names: Sequence[str] | None) -> dict[str, Any]:
    """Return a value by name; a tuple is spelled `0.9/0.95` or `0.9,0.95`."""
    tuples = _tuples(texts, names)
    return {name: _value(text, "[/,]" if name in tuples else None) for name, text in texts.items()}


def _value(text: str, separators: str | None) -> Any:
    """Return a value, or a tuple if the text is that of a tuple with these separators."""
    if separators is None:
        return literal(text)
    return tuple(map(literal, re.split(separators, text)))


def _tuples(texts: Mapping[str, str], optimizers: Sequence[str] | None) -> set[str]:
    """Return the names of those hyperparameters whose values are tuples.

    The hyperparameters are those of the registered optimizers, the composed ones, and the
    optimizers that the command names. If the value of a name is a tuple only for some optimizers,
    the name is included if its text contains a slash.
    """
    if not texts:
        return set()
    from precond.registry import available, composed_names, defaults, name_error

    named = [name for name in optimizers or [] if not name_error(name)]
    known = {*available(), *composed_names(), *named}
    kinds = [pair for optimizer in known for pair in defaults(optimizer).items()]
    scalars = {name for name, value in kinds if not isinstance(value, tuple)}
    tuples = {name for name, value in kinds if isinstance(value, tuple)}
    return {name for name in tuples & set(texts) if name not in scalars or "/" in texts[name]}
