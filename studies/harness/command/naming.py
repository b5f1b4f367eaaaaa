"""Name trials for a reader, and find the trial that the first digits of a key name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

LISTED = 6  # matching trials that an error message lists
WHERE_KEYS_ARE = (
    "trials.csv of a report lists the keys of its trials, and the folders in OUT/trials have them as "
    "names"
)
# A trial's values besides these are compared, to find those that distinguish it.
NOT_COMPARED = ("workload", "optimizer", "seed", "numerics", "settings", "hyperparameters")


class Names:
    """Names trials by their optimizer, their seed, and the values that distinguish them.

    Args:
        configs: The configurations of all trials among which a name must distinguish.
    """

    def __init__(self, configs: Iterable[Mapping[str, Any]]):
        self._values: dict[tuple[str, str], dict[str, set[str]]] = {}
        for config in configs:
            names = self._values.setdefault((config["workload"], config["optimizer"]), {})
            for name, value in _flat(config).items():
                names.setdefault(name, set()).add(str(value))
        self._several = len({workload for workload, _ in self._values}) > 1

    def __call__(self, config: Mapping[str, Any]) -> str:
        """Return a name such as `digits/cnn nysact-s rank=5 seed 0`.

        The workload is omitted if all trials have the same. The values are those that differ among
        the trials of the workload and the optimizer, and the hyperparameters that differ from the
        recipe's.
        """
        values = self._values[config["workload"], config["optimizer"]]
        varied = {name for name, different in values.items() if len(different) > 1}
        varied |= _changed(config)
        levels = [f"{name}={value}" for name, value in _flat(config).items() if name in varied]
        workload = [config["workload"]] if self._several else []
        return " ".join([*workload, config["optimizer"], *levels, f"seed {config['seed']}"])


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's fields, the settings and the hyperparameters of a trial.

    Only the first 8 digits of a SHA-256 are returned.
    """
    fields = {name: value for name, value in config.items() if name not in NOT_COMPARED}
    fields |= {name: str(fields[name])[:8] for name in ("plugin", "data") if fields.get(name)}
    return {**fields, **config.get("settings", {}), **config["hyperparameters"]}


def _changed(config: Mapping[str, Any]) -> set[str]:
    """Return the names of the hyperparameters that differ from the recipe's."""
    from precond.hyperparameters import HyperparameterError
    from trainables.config import TrialConfig
    from trainables.workloads import deviations

    with suppress(HyperparameterError, KeyError):  # the recipe may belong to a plugin
        return {*deviations(TrialConfig.from_dict(config))} & {*config["hyperparameters"]}
    return set()


def key_problem(
    prefix: str, keys: Collection[str], name: Callable[[str], str], place: str
) -> str | None:
    """Return an error unless exactly one of the keys starts with the prefix, else None.

    Args:
        prefix: The first digits of a key.
        keys: The known keys.
        name: A function from a key to the name of its trial.
        place: Where the keys are, such as "in outputs".
    """
    matches = sorted(key for key in keys if key.startswith(prefix)) if prefix else []
    if len(matches) == 1:
        return None
    if not prefix or not matches:
        allowed = f"must be the first digits of the key of a trial {place}"
        return f'"{prefix}": {allowed}; {WHERE_KEYS_ARE}'
    listed = ", ".join(f"{key[:16]} ({name(key)})" for key in matches[:LISTED])
    rest = f" and {len(matches) - LISTED} more" if len(matches) > LISTED else ""
    count = f"{len(matches)} trials {place} have keys that start with it"
    return f'"{prefix}": {count}: {listed}{rest}; give more digits'


def find(root: Path, *keys: str) -> tuple[list[Path], list[str]]:
    """Return the trial folders that keys or their first digits name, and a line for each error."""
    from trainables.store import trial_folders

    folders = {folder.name: folder for folder in trial_folders(root)}
    prefixes = [key[:16] for key in keys]
    errors = [
        line
        for key in prefixes
        if (line := key_problem(key, folders, _namer(folders), f"in {root}"))
    ]
    matches = [
        folder for key in prefixes for name, folder in folders.items() if name.startswith(key)
    ]
    return matches, errors


def _namer(folders: Mapping[str, Path]) -> Callable[[str], str]:
    """Return a function from the name of a folder to the name of its trial."""
    from trainables.store import read_config

    @cache
    def configs() -> dict[str, Any]:
        return {key: read_config(folder)["config"] for key, folder in folders.items()}

    return lambda key: Names(configs().values())(configs()[key])
