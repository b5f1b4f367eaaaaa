"""What a trial is: a resolved configuration and a seed, and the key that identifies it.

The key is a hash of resolved values only. Paths, hosts, verbosity and the study that asked are not in it, so that two
studies that need the same trial share it, and a trial moved to another machine keeps its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

SCHEMA = 1
"""Version of the trial folder's layout; a folder written by a newer one is refused."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
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
    """

    workload: str
    optimizer: str
    hyperparameters: Mapping[str, Any]
    batch_size: int
    epochs: int
    schedule: str
    seed: int
    numerics: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Inverse of `to_dict`."""
        return cls(**values)

    @cached_property
    def trial_key(self) -> str:
        """Identity of the trial: 64 hexadecimal digits."""
        return digest(self.to_dict())

    @cached_property
    def group_key(self) -> str:
        """Identity of the configuration over all seeds: 64 hexadecimal digits."""
        return digest({name: value for name, value in self.to_dict().items() if name != "seed"})

    def with_seed(self, seed: int) -> TrialConfig:
        """The same configuration under another seed."""
        return replace(self, seed=seed)


def stream_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Seed of one random stream: 63 bits of hash(seed, purpose, epoch).

    No generator's state is ever saved: an epoch's streams are made anew at its start, so resuming is bitwise, and two
    arms with the same seed share initial weights, data order and augmentation (common random numbers).
    """
    return int(digest([seed, purpose, epoch])[:16], 16) >> 1
