"""Values of the options of a judgement, read from their texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from precond.hyperparameters import HyperparameterError
from studies.harness.design.options import usable


class Values:
    """The values of options. Invalid values are collected in `errors`, one line each.

    Args:
        texts: The texts by name; None for an option that is absent.
    """

    def __init__(self, texts: Mapping[str, Any]) -> None:
        self.errors: list[str] = []
        self._texts = texts

    def read(self, convert: Callable[[], Any]) -> Any:
        """Return the result of `convert`, or None if it raises `HyperparameterError`."""
        try:
            return convert()
        except HyperparameterError as error:
            self.errors += str(error).splitlines()

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return the value of an option, an integer in low..high."""
        text = self._texts.get(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:  # no integer, or too many digits
            value = low - 1
        if not low <= value <= high:
            self._error(name, text, f"an integer in {low}..{high}")
            return default
        return value

    def text(self, name: str, default: str) -> str:
        """Return the value of an option."""
        text = self._texts.get(name)
        return default if text is None else text.strip()

    def number(self, name: str) -> float | None:
        """Return the value of an option, a finite number, or None."""
        text = self._texts.get(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self._error(name, text, "a finite number")
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> Any:
        """Return the value of an option, by default the first allowed one."""
        text = self._texts.get(name)
        if text is not None and text not in allowed:
            self._error(name, text, f"one of {', '.join(allowed)}")
        return allowed[0] if text is None else text

    def _error(self, name: str, text: str, rule: str) -> None:
        shown = text if usable(text) else f'"{text}"'
        self.errors.append(f"--{name.replace('_', '-')} = {shown}: must be {rule}")
