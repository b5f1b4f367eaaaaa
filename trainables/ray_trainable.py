"""The Ray Tune trainable: one reused actor trains trial after trial. The only file of this package that imports Ray.

Tune decides where and when; the trial folder holds everything else. So there are no Tune checkpoints: a worker that
replaces a lost one opens the folder and goes on. A terminal outcome is never raised, it is in the folder.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from trainables.data import DataError
from trainables.store import TrialStore
from trainables.train import epochs

DATA_PROBLEM = "data_problem"  # of a result: what was wrong with the data; the driver then stops


class TrialTrainable(tune.Trainable):
    """Trains the trial `config["key"]` of the output folder `config["root"]`, an epoch a step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Open the trial; called in a new actor."""
        # One CPU slot, one thread: two give other bits, and trials side by side would fight for the cores.
        torch.set_num_threads(1)
        self._open(config)

    def step(self) -> dict[str, Any]:
        """Train one epoch; the last one, or a terminal outcome, ends the trial."""
        try:
            metrics: dict[str, Any] = next(self._epochs)
        except StopIteration:
            return {"done": True}
        except DataError as problem:  # raised, Tune would try again for ever
            return {"done": True, DATA_PROBLEM: str(problem)}
        return {**metrics, "done": self._store.status() is not None}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in this actor."""
        self.cleanup()
        self._open(new_config)
        return True

    def cleanup(self) -> None:
        """Let go of the trial."""
        self._epochs.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _open(self, config: dict[str, Any]) -> None:
        self._store = TrialStore.open(Path(config["root"]), config["key"], config["generation"])
        os.environ["PRECOND_DATA"] = config["data_dir"]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._epochs = epochs(
            self._store.config,
            self._store,
            device=device,
            commit_every=config["commit_every"],
            provenance={**config["provenance"], "ray": ray.__version__},
        )
