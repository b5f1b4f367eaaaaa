"""The configurations of trials as flat dictionaries, and the values that vary among them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

NOT_SETTINGS = ("optimizer", "seed", "numerics")
DIGESTS = ("plugin", "data")  # values that are a SHA-256


def configuration_of(config: Mapping[str, Any], reserved: Container[str] = ()) -> dict[str, Any]:
    """Return the hyperparameters and the training settings of a trial by name.

    A hyperparameter with the name of a setting has the prefix `hyperparameter/`.

    Args:
        config: The values of a `TrialConfig`, as `to_dict` or the file of a trial has them.
        reserved: More names that get the prefix, such as those of the columns of a table.
    """
    nested = {"hyperparameters", "settings", *NOT_SETTINGS}
    settings = {name: value for name, value in config.items() if name not in nested}
    settings |= config.get("settings", {})
    hyperparameters = {
        f"hyperparameter/{name}" if name in settings or name in reserved else name: value
        for name, value in config["hyperparameters"].items()
    }
    return {**hyperparameters, **settings}


def varied(configurations: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names that have several values in configurations (`configuration_of`).

    A name that some of them lack is included only if its values differ among the others.
    """
    values: dict[str, set[str]] = {}
    for configuration in configurations:
        for name, value in configuration.items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name, different in values.items() if len(different) > 1]
