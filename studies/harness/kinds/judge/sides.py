"""Reads the sides of a judgement: names with values, optimizers of plugins, and recipe files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from precond.hyperparameters import HyperparameterError
from precond.peers.library import canonical
from precond.registry import name_error
from studies.harness.design import values
from studies.harness.design.arms import Arm
from trainables.settings import LOOP
from trainables.workloads import RECIPE_SETTINGS

ADVICE = "; or name its file with --plugin"
SUFFIXES = (".toml", ".json")
OPTIMIZER_SETTINGS = ("batch_size", "schedule", *LOOP)  # a side may replace those of the recipe
KEYS = ("optimizer", "hyperparameters", "as_released")


def split(text: str) -> list[str]:
    """Return the sides of a text such as `nysact-s:rank=5,lr=0.01,adamw`.

    A part such as `lr=0.01` belongs to the side before it.
    """
    sides: list[str] = []
    for part in text.split(","):
        if sides and "=" in part and ":" not in part.partition("=")[0]:
            sides[-1] += f",{part}"
        else:
            sides.append(part)
    return sides


def arm(text: str) -> Arm:
    """Return the configuration of one side.

    Args:
        text: `sgd`, `nysact-s:rank=5,lr=0.01`, or the path of a file with the suffix `.toml` or
            `.json`, which contains `optimizer` and, optionally, `hyperparameters` by name.

    Raises:
        HyperparameterError: One line for each error.
    """
    if Path(text).suffix.lower() in SUFFIXES:
        return _from_file(Path(text).expanduser())
    name, colon, pairs = text.rpartition(":")
    if not colon or "=" not in pairs:  # a name such as pytorch-optimizer:lion
        name, pairs = text, ""
    return _arm(text, canonical(name), _settings(text, canonical(name), pairs))


def _settings(text: str, optimizer: str, pairs: str) -> dict[str, Any]:
    texts: dict[str, str] = {}
    for pair in filter(None, pairs.split(",")):
        name, equals, value = pair.partition("=")
        name = values.ALIASES.get(name, name)
        if not (name and equals and value):
            form = "must have the form NAME:HYPERPARAMETER=VALUE,..., with two numbers as 0.9/0.99"
            raise HyperparameterError(f"{text}: {form}")
        if name in texts:
            raise HyperparameterError(f"{text}: {name} has two values")
        texts[name] = value
    return {} if name_error(optimizer) else values.settings(texts, [optimizer])


def _arm(text: str, optimizer: str, overrides: Mapping[str, Any], as_released: bool = False) -> Arm:
    if error := name_error(optimizer, ADVICE):
        raise HyperparameterError(error if text == optimizer else f"{text}: {error}")
    shared = {*RECIPE_SETTINGS} - {*OPTIMIZER_SETTINGS}
    if common := [name for name in overrides if name in shared]:
        rule = "belongs to the workload, which is the same for both sides; --epochs changes epochs"
        raise HyperparameterError(f"{text}: {common[0]} {rule}")
    return Arm(
        optimizer=optimizer,
        overrides=overrides,
        factors=tuple(overrides),
        as_released=as_released,
    )


def _from_file(path: Path) -> Arm:
    kind = path.suffix[1:].upper()
    try:
        content = path.read_text("utf-8-sig")
        document = tomllib.loads(content) if kind == "TOML" else json.loads(content)
    except OSError as error:
        raise HyperparameterError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # those of both parsers
        raise HyperparameterError(f"{path}: not a {kind} file in UTF-8 ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("optimizer"), str):
        raise HyperparameterError(f'{path}: must contain the name of an optimizer as "optimizer"')
    overrides, as_released = document.get("hyperparameters", {}), document.get("as_released", False)
    errors = [f"{name}: unknown; allowed are {', '.join(KEYS)}" for name in {*document} - {*KEYS}]
    if not isinstance(overrides, dict):
        errors.append(f"hyperparameters = {overrides!r}: must be a table with values by name")
    if not isinstance(as_released, bool):
        errors.append(f"as_released = {as_released!r}: must be true or false")
    if errors:
        raise HyperparameterError("\n".join(f"{path}: {line}" for line in sorted(errors)))
    return _arm(str(path), canonical(document["optimizer"]), overrides, as_released)
