"""A trial's configuration, which includes its seed, and the key that identifies the trial.

The key is a hash of the values that determine the trial's results. It does not depend on paths,
hosts, verbosity or the study. Two studies that need the same trial therefore share it, and a trial
folder that is copied to another machine keeps its name.
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
"""Version of the trial folder's layout. Older versions can be read; newer versions are refused."""


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and without spaces, so that equal values give equal text.

    Raises:
        ValueError: The value contains NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """All values that determine the results of a trial.

    Attributes:
        workload: Registered workload, such as `digits/cnn`.
        optimizer: Registered optimizer, such as `nysact-s`.
        hyperparameters: All hyperparameters of the optimizer, including those with default values.
        batch_size: Examples per step; the last, smaller batch of an epoch is dropped.
        epochs: Passes over the training set.
        schedule: Learning-rate schedule over all steps: `cosine` or `constant`.
        seed: Seed of the initialisation, the data order, the augmentation and the optimizer.
        numerics: Version numbers of the optimizer, the training loop and the recipe. A version is
            incremented when a change of the code alters the results of a configuration. For an
            optimizer `pytorch-optimizer:NAME`, `package` is the version of the package.
        settings: All settings of `trainables.settings` that apply to the workload.
        precision: Precision of the forward and backward pass: `float32`, or `bf16` by autocast.
        compile: True if the model is compiled with `torch.compile`.
        channels_last: True if images and convolutions use the channels-last memory format.
        workers: Number of processes that share each batch.
        train_fraction: Fraction of the training set to train on. If it is below 1, the remaining
            examples are held out and replace the test set.
        plugin: SHA-256 of the code of a plugin that the trial uses (`trainables.plugins.content`);
            two of these, joined by `+`, if the workload and the optimizer are both from plugins;
            None without plugins.
        data: SHA-256 of the user's file, or of a text that depends on the version of Python. None
            for all other datasets.
    """

    workload: str
    optimizer: str
    hyperparameters: Mapping[str, Any]
    batch_size: int
    epochs: int
    schedule: str
    seed: int
    numerics: Mapping[str, int | str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    compile: bool = False
    channels_last: bool = False
    workers: int = 1
    train_fraction: float = 1.0
    plugin: str | None = None
    data: str | None = None

    @property
    def evaluation(self) -> str:
        """The first part of the names of evaluated metrics: `test`, or `val` for held-out examples."""
        return "test" if self.train_fraction == 1 else "val"

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as values that can be written as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Return the configuration whose `to_dict` returned these values."""
        return cls(**values)

    @cached_property
    def trial_key(self) -> str:
        """The identity of the trial, 64 hexadecimal digits."""
        return digest(self._identity())

    @cached_property
    def group_key(self) -> str:
        """The identity of the configuration without its seed, 64 hexadecimal digits."""
        return digest({name: value for name, value in self._identity().items() if name != "seed"})

    def with_seed(self, seed: int) -> TrialConfig:
        """Return the same configuration with another seed."""
        return replace(self, seed=seed)

    def _identity(self) -> dict[str, Any]:
        """Return the values that are hashed.

        Fields with their default value and settings with their neutral value are omitted. Fields
        and settings that are added later therefore do not change existing keys, including those of
        trials with schema 1.
        """
        values = {**self.to_dict(), "settings": significant(self.settings)}
        defaults = {f.name: f.default for f in fields(self)} | {"settings": {}}
        return {name: value for name, value in values.items() if value != defaults[name]}


def stream_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Return the seed of a random stream: 63 bits of a hash of seed, purpose and epoch.

    Each epoch starts new streams. Checkpoints therefore need no generator states, and two
    configurations with the same seed have the same initial weights, data order and augmentation
    (common random numbers).
    """
    return int(digest([seed, purpose, epoch])[:16], 16) >> 1
