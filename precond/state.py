"""Does a saved state fit an optimizer? Every way in which it does not, one line each.

A state has an entry by name for each layer and each other parameter. An entry holds the algorithm's tensors, and the
update rule's buffers under the prefix of their parameter ("weight.", "bias.", none for a parameter by itself).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Entries = Mapping[str, Mapping[str, Tensor]]  # name of an entry -> its parameters, by the prefix of their buffers


def mismatches(mine: Mapping[str, Any], theirs: Mapping[str, Any], entries: Entries) -> list[str]:
    """One line for each way in which `theirs` is not a state of the optimizer whose state is `mine`."""
    saved = theirs["state"]
    wrong = [f"{name}: in the model, not in the state" for name in mine["state"] if name not in saved]
    wrong += [f"{name}: in the state, not in the model" for name in saved if name not in mine["state"]]
    for name, value in mine["algorithm"].items():
        other = theirs["algorithm"].get(name)
        if other != value:
            wrong.append(f"{name} = {value!r} here, {other!r} in the state: build the optimizer with that")
    if [g["params"] for g in mine["param_groups"]] != [g["params"] for g in theirs["param_groups"]]:
        wrong.append("param_groups: other parameters than in the state")
    for name in mine["state"].keys() & saved.keys():
        parameters = entries[name]
        expected = _algorithm_tensors(mine["state"][name], parameters)
        for prefix, parameter in parameters.items():
            expected |= {prefix + key: parameter for key in buffers(saved[name], prefix)}
        wrong += _shape_mismatches(name, expected, saved[name])
    return wrong


def buffers(entry: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The rule's buffers of one parameter, by name."""
    return {key.removeprefix(prefix): value for key, value in entry.items() if key.startswith(prefix)}


def _algorithm_tensors(entry: Mapping[str, Any], prefixes: Mapping[str, Any]) -> dict[str, Tensor]:
    own = {key: value for key, value in entry.items() if isinstance(value, Tensor)}
    return {key: value for key, value in own.items() if not any(key.startswith(prefix) for prefix in prefixes)}


def _shape_mismatches(name: str, mine: Mapping[str, Tensor], theirs: Mapping[str, Any]) -> list[str]:
    """One line for each of my tensors whose counterpart is missing or has another shape; scalars fit everything."""
    wrong = []
    for key, value in mine.items():
        found = list(theirs[key].shape) if isinstance(theirs.get(key), Tensor) else "nothing"
        if found not in ([], list(value.shape)):
            wrong.append(f"{name}: {key} must be {list(value.shape)}, the state has {found}")
    return wrong
