"""A trial: a resolved configuration and a seed, and the key that identifies it.

The key is a hash of resolved values only. It does not contain paths, hosts, verbosity or the study, so two studies that
need the same trial share it, and a trial that is moved to another machine keeps its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from trainables.settings import significant

SCHEMA = 2
"""Version of the trial folder's layout; folders of a newer version are refused, those of an older version are read."""


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces and no NaN: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that decides a trial's numbers.

    Attributes:
        workload: Registered workload, such as `digits/cnn`.
        optimizer: Registered optimizer, such as `nysact-s`.
        hyperparameters: The optimizer's hyperparameters, complete: defaults and recipe values are written out.
        batch_size: Examples per step; the last, smaller batch of an epoch is dropped.
        epochs: Passes over the training set.
        schedule: Learning-rate schedule over all steps: `cosine` or `constant`.
        seed: Seeds initialisation, data order, augmentation and sketches.
        numerics: Version of the arithmetic of the optimizer, the loop and the recipe; raised when numbers move.
        settings: Those of `trainables.settings` that the workload has, complete.
        precision: Of the forward and backward pass: `float32`, or `bf16` by autocast.
        compile: True if the model is compiled with `torch.compile`.
        channels_last: True if images and convolutions have their channels last in memory.
        workers: Processes that share each batch.
        train_fraction: Below 1, the rest of the training set is held out and replaces the test set.
        plugin: SHA-256 of the user's file that registered the workload or the optimizer, or None.
    """

    workload: str
    optimizer: str
    hyperparameters: Mapping[str, Any]
    batch_size: int
    epochs: int
    schedule: str
    seed: int
    numerics: Mapping[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    compile: bool = False
    channels_last: bool = False
    workers: int = 1
    train_fraction: float = 1.0
    plugin: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Inverse of `to_dict`."""
        return cls(**values)

    @cached_property
    def trial_key(self) -> str:
        """Identity of the trial: 64 hexadecimal digits."""
        return digest(self._identity())

    @cached_property
    def group_key(self) -> str:
        """Identity of the configuration over all seeds: 64 hexadecimal digits."""
        return digest({name: value for name, value in self._identity().items() if name != "seed"})

    def with_seed(self, seed: int) -> TrialConfig:
        """Return the same configuration with another seed."""
        return replace(self, seed=seed)

    def _identity(self) -> dict[str, Any]:
        """Return the values that the key is a hash of, without fields at their default and neutral settings.

        Fields and settings added later therefore do not change existing keys, and trials of schema 1 keep theirs.
        """
        values = {**self.to_dict(), "settings": significant(self.settings)}
        defaults = {f.name: f.default for f in fields(self)} | {"settings": {}}
        return {name: value for name, value in values.items() if value != defaults[name]}


def stream_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Return the seed of a random stream: 63 bits of hash(seed, purpose, epoch).

    No generator's state is saved: each epoch starts with new streams, so resuming is bitwise, and two configurations
    with the same seed share initial weights, data order and augmentation (common random numbers).
    """
    return int(digest([seed, purpose, epoch])[:16], 16) >> 1
