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

ADVICE = "; or name its file with --plugin"
SUFFIXES = (".toml", ".json")
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
    if Path(text).suffix in SUFFIXES:
        return _from_file(Path(text))
    name, colon, pairs = text.rpartition(":")
    if not colon or "=" not in pairs:  # a name such as pytorch-optimizer:lion
        name, pairs = text, ""
    return _arm(text, canonical(name), _settings(text, canonical(name), pairs))


def _settings(text: str, optimizer: str, pairs: str) -> dict[str, Any]:
    texts: dict[str, str] = {}
    for pair in filter(None, pairs.split(",")):
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise HyperparameterError(f"{text}: must have the form NAME:HYPERPARAMETER=VALUE,...")
        texts[values.ALIASES.get(name, name)] = value
    return {} if name_error(optimizer) else values.settings(texts, [optimizer])


def _arm(text: str, optimizer: str, overrides: Mapping[str, Any], as_released: bool = False) -> Arm:
    if error := name_error(optimizer, ADVICE):
        raise HyperparameterError(error if text == optimizer else f"{text}: {error}")
    return Arm(
        optimizer=optimizer,
        overrides=overrides,
        factors=tuple(overrides),
        as_released=as_released,
    )


def _from_file(path: Path) -> Arm:
    try:
        content = path.read_text()
        document = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
    except OSError as error:
        raise HyperparameterError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # that of both parsers
        raise HyperparameterError(
            f"{path}: not a {path.suffix[1:].upper()} file ({error})"
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("optimizer"), str):
        raise HyperparameterError(f'{path}: must contain the name of an optimizer as "optimizer"')
    unknown = [key for key in document if key not in KEYS]
    overrides = document.get("hyperparameters", {})
    if unknown or not isinstance(overrides, dict):
        key = unknown[0] if unknown else "hyperparameters"
        rule = "may contain optimizer, as_released and the table hyperparameters"
        raise HyperparameterError(f"{path}: {key} is unknown or no table; the file {rule}")
    return _arm(
        str(path), canonical(document["optimizer"]), overrides, bool(document.get("as_released"))
    )
