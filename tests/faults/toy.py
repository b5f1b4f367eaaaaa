"""The real training loop, store and lock with a trainer that takes microseconds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from studies.harness.command import lock
from tests.faults.invariants import Numbers, numbers
from trainables import train
from trainables.config import TrialConfig, stream_seed
from trainables.store import TrialStore

EPOCHS = 5


def configs(count: int) -> list[TrialConfig]:
    """Return `count` trials that differ in their seed."""
    shared: dict[str, Any] = {
        "hyperparameters": {"lr": 0.1},
        "batch_size": 64,
        "schedule": "constant",
        "numerics": {},
    }
    return [
        TrialConfig(workload="digits/cnn", optimizer="sgd", epochs=EPOCHS, seed=seed, **shared)
        for seed in range(count)
    ]


class Toy:
    """A replacement for the trainer; new weights are a function of the old weights and the seed."""

    executed: Path | None = None  # a file that receives one byte for each trained epoch

    def __init__(self, config: TrialConfig, device: torch.device, *_: object):
        self.config, self.device, self.table = config, device, {}
        self.weights = torch.zeros(50, dtype=torch.float64)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train an epoch and return its metrics."""
        if self.executed is not None:
            descriptor = os.open(self.executed, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b".")
            os.close(descriptor)
        generator = torch.Generator().manual_seed(stream_seed(self.config.seed, "order", epoch))
        noise = torch.rand(50, dtype=torch.float64, generator=generator)
        self.weights = (1.7 * self.weights + noise).frac()
        return {"test/accuracy": self.weights[0].item(), "test/loss": self.weights.sum().item()}

    def state_dict(self) -> dict[str, Any]:
        """Replace the method of `train.Trainer`."""
        return {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the method of `train.Trainer`."""
        self.weights = state["weights"]


def session(root: Path, trials: Sequence[TrialConfig], commit_every: float = 0.0) -> None:
    """Lock the folder as a driver does, then train each trial to its end as a worker does."""
    with mock.patch.object(train, "Trainer", Toy), lock.exclusive(root) as generation:
        for config in trials:
            store = TrialStore(root, config, generation)
            store.create()
            for _ in train.epochs(config, store, commit_every=commit_every):
                pass


def reference(root: Path, trials: Sequence[TrialConfig]) -> dict[str, Numbers]:
    """Return the numbers of the uninterrupted run by trial key."""
    session(root, trials)
    return {config.trial_key: numbers(TrialStore(root, config).folder) for config in trials}
