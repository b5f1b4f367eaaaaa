"""A probe watches networks while they train, one for each seed, and keeps what it saw as arrays.

    outputs/probes/<first 16 hex of the key>/
        config.json    schema, full key, what is watched and how, the trial that is trained meanwhile
        arrays.npz     what was seen; not there when the training diverged
        status.json    completed | diverged; seconds, the last epoch's metrics, where and with which code
                       (and the SHA-256 of the arrays: numpy does not notice every flipped bit)

Numbers and figures are made of the arrays, so that they can be made again without training. A folder is renamed into
place whole, and found again by its key: a second run trains nothing, and one that was killed trains the network that it
was at from the start, since a probe keeps no checkpoints. It needs no Ray: few networks, one after another.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from precond import HyperparameterError
from precond.hyperparameters import problems
from precond.layers import find_layers
from studies.harness.kinds.study.study import Arm, Artefact, Trial
from studies.harness.report.document import Block
from trainables.config import TrialConfig, digest
from trainables.files import sync, sync_directory
from trainables.fingerprint import provenance
from trainables.measure import device_name
from trainables.store import COMPLETED, DIVERGED, StoreError
from trainables.train import Diverged, Trainer
from trainables.workloads import resolve, skeleton, workload

SCHEMA = 1
Arrays = dict[str, np.ndarray]
Epochs = Iterator[dict[str, float]]  # trains an epoch when asked for the next


@dataclass(frozen=True)
class Result:
    """What is known of one seed's network.

    Attributes:
        seed: Of its trial.
        status: `status.json`.
        arrays: What was seen; empty when it diverged.
    """

    seed: int
    status: Mapping[str, Any]
    arrays: Arrays


@dataclass(frozen=True, kw_only=True)
class Measurement(ABC):
    """What is watched, and what is made of it; the fields are its parameters, which `--set` changes."""

    NUMERICS: ClassVar[int]  # raised when the same parameters give other arrays

    problems = problems

    def model_problems(self, model: nn.Module) -> list[str]:
        """One line for each parameter that does not fit the model."""
        return []

    @abstractmethod
    def measure(self, trainer: Trainer, epochs: Epochs) -> Arrays:
        """Train to the end, and watch.

        Args:
            trainer: Model, optimizer and data.
            epochs: Trains `trainer.config.epochs` epochs, one with each `next`.
        """

    @abstractmethod
    def numbers(self, results: Sequence[Result]) -> pd.DataFrame:
        """What the arrays say, in rows for `numbers.csv`."""

    @abstractmethod
    def blocks(self, numbers: pd.DataFrame) -> list[Block]:
        """The report's tables, and what they say about the claim."""

    @abstractmethod
    def metrics(self, numbers: pd.DataFrame) -> dict[str, float]:
        """The numbers that MLflow gets, means over seeds by name."""

    @abstractmethod
    def draw(self, results: Sequence[Result], folder: Path) -> list[Path]:
        """Draw the figure into a folder; returns the files."""


@dataclass(frozen=True, kw_only=True)
class Probe(Artefact):
    """A figure of what happens inside a network.

    Attributes:
        measurement: What is watched.
        optimizer: What trains the networks.
        workload: Default workload.
        seeds: Number of networks; the seeds are 0 ... seeds - 1.
    """

    measurement: Measurement
    optimizer: str = "sgd"
    workload: str = "digits/cnn"
    seeds: int = 3

    def trials(
        self,
        workload: str | None = None,
        seeds: Sequence[int] | None = None,
        recipe: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> list[Trial]:
        """A trial for each network.

        Args:
            workload: Instead of the probe's own.
            seeds: Instead of the probe's own.
            recipe: What is set instead of the recipe's, such as `batch_size`.
            overrides: Hyperparameters of the optimizer.

        Raises:
            HyperparameterError: One line for each thing that is wrong, the probe's own parameters included.
        """
        wrong, name = self.measurement.problems(), workload or self.workload
        trials: list[Trial] = []
        try:
            held = {**self.published.get(name, {}), **(recipe or {})}
            config = resolve(name, self.optimizer, overrides, held)
            arm = Arm(optimizer=self.optimizer, overrides=overrides or {})
            trials = [Trial(arm, config.with_seed(seed)) for seed in (range(self.seeds) if seeds is None else seeds)]
            wrong = wrong or self._unfit(config)
        except HyperparameterError as error:
            wrong = [*wrong, *str(error).splitlines()]
        if wrong:
            raise HyperparameterError("\n".join(wrong))
        return trials

    def found(self, trials: Sequence[Trial], root: Path) -> dict[int, Result]:
        """The results that there are of some networks, by seed.

        Raises:
            StoreError: A folder is damaged, another's, or of a newer version.
        """
        read = {trial.config.seed: self.read(trial.config, root) for trial in trials}
        return {seed: result for seed, result in read.items() if result is not None}

    def key(self, config: TrialConfig) -> str:
        """Identity of the result for one network: 64 hexadecimal digits."""
        return digest({**self._watched(), "trial": config.trial_key})

    def read(self, config: TrialConfig, root: Path) -> Result | None:
        """The result for one network, or None where there is none.

        Raises:
            StoreError: The folder is damaged, another's, or of a newer version.
        """
        folder = probe_folder(root, self.key(config))
        if not folder.exists():
            return None
        try:
            document = json.loads((folder / "config.json").read_bytes())
            status = json.loads((folder / "status.json").read_bytes())
            arrays = _load(folder / "arrays.npz", status["sha256"]) if status["status"] == COMPLETED else {}
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{folder} is damaged ({type(error).__name__}): remove it and run again") from error
        if document["schema"] > SCHEMA:
            raise StoreError(f"{folder} has schema {document['schema']}, this version reads up to {SCHEMA}: update")
        if document["key"] != self.key(config):
            raise StoreError(f"{folder} holds another result with the same first 16 digits: move it away")
        return Result(config.seed, status, arrays)

    def run(
        self,
        config: TrialConfig,
        root: Path,
        device: torch.device,
        told: Callable[[int, Mapping[str, float]], object] = lambda epoch, metrics: None,
    ) -> Result:
        """Train one network, watch it and keep the result.

        Args:
            config: The trial.
            root: The output folder.
            device: Where to train.
            told: Is called after each epoch with its number and metrics.

        Raises:
            OSError: The folder cannot be written.
        """
        start, metrics = time.time(), {}
        trainer = Trainer(config, device)

        def epochs() -> Epochs:
            for epoch in range(config.epochs):
                metrics.update(trainer.run_epoch(epoch))
                told(epoch, metrics)
                yield dict(metrics)

        try:
            arrays, ended = self.measurement.measure(trainer, epochs()), {"status": COMPLETED}
        except Diverged as result:
            arrays, ended = {}, {"status": DIVERGED, "reason": str(result), **result.details}
        here = {"torch": torch.__version__, "device": device_name(device), **provenance()}
        status = {**ended, "time": time.time(), "seconds": time.time() - start, "metrics": metrics, **here}
        document = {"schema": SCHEMA, "key": self.key(config), **self._watched(), "config": config.to_dict()}
        return Result(config.seed, write(probe_folder(root, self.key(config)), document, status, arrays), arrays)

    def _unfit(self, config: TrialConfig) -> list[str]:
        """A line for each parameter that does not fit the model, or if there is nothing to watch."""
        chosen = workload(config.workload)
        model = skeleton(chosen.model, chosen.fit(config.settings))
        if config.compile:
            return ["compile = True: a probe watches layers as they are written; leave it out"]
        if not find_layers(model):
            return [f'workload = "{chosen.name}": its model has no Linear or Conv2d layer to watch']
        return self.measurement.model_problems(model)

    def _watched(self) -> dict[str, Any]:
        kind = type(self.measurement)
        return {"measurement": kind.__name__, "numerics": kind.NUMERICS, "parameters": asdict(self.measurement)}


def probe_folder(root: Path, key: str) -> Path:
    """Where a result lives: `probes/` and the first 16 digits of its key."""
    return root / "probes" / key[:16]


def write(folder: Path, config: Mapping[str, Any], status: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """Write a result's folder, whole or not at all; what a killed writer left aside goes. Returns `status.json`."""
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    stored = io.BytesIO()
    np.savez_compressed(stored, allow_pickle=False, **arrays)
    status = {**status, "sha256": hashlib.sha256(stored.getvalue()).hexdigest()}
    files = {"config.json": json.dumps(config, indent=1).encode(), "status.json": json.dumps(status, indent=1).encode()}
    if arrays:
        files["arrays.npz"] = stored.getvalue()
    for name, content in files.items():
        with open(aside / name, "wb") as file:
            file.write(content)
            sync(file)
    sync_directory(aside)
    aside.rename(folder)
    sync_directory(folder.parent)
    return status


def _load(path: Path, sha256: str) -> Arrays:
    """The arrays of a file.

    Raises:
        ValueError: It is not what was written.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("the arrays are not those that were written")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:  # a pickle is code
        return {name: stored[name] for name in stored.files}
