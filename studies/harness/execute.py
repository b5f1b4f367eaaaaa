"""Ray: train what is missing. The only file of this package that imports it.

One Tuner runs a grid over trial keys on reused actors. Tune's own logs, checkpoints and restore are not used: whatever
it loses is in the trial folders.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from studies.harness.progress import StudyProgress
from studies.harness.study import Trial
from trainables.ray_trainable import TrialTrainable
from trainables.store import read_status, trial_folder


class _Report(tune.Callback):
    """Passes what Tune sees on to the progress display."""

    def __init__(self, progress: StudyProgress, root: Path):
        self._progress, self._root = progress, root

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that we never ask for

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict, **_: Any
    ) -> None:
        if "epoch" in result:
            self._progress.epoch(trial.config["key"], result["epoch"], result["test/accuracy"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        status = read_status(trial_folder(self._root, trial.config["key"])) or {"status": "lost"}
        self._progress.finished(trial.config["key"], status["status"], status.get("reason", ""))


def train(
    trials: Sequence[Trial],
    root: Path,
    generation: int,
    progress: StudyProgress,
    *,
    slots: int,
    provenance: dict[str, Any],
) -> None:
    """Train trials, whose folders exist, until each has a terminal status.

    Args:
        trials: What to train.
        root: The output folder.
        generation: This driver's.
        progress: Told of every epoch and every end.
        slots: How many trials at once, one CPU each.
        provenance: What workers note about the code.
    """
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix="tune-") as scratch:
            _fit(trials, root.absolute(), generation, _Report(progress, root), provenance, scratch)
    finally:
        ray.shutdown()


def _fit(
    trials: Sequence[Trial], root: Path, generation: int, report: _Report, provenance: dict[str, Any], scratch: str
) -> None:
    space = {
        "key": tune.grid_search([trial.config.trial_key for trial in trials]),
        "root": str(root),
        "generation": generation,
        "provenance": provenance,
    }
    tuner = tune.Tuner(
        tune.with_resources(TrialTrainable, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=scratch,
            verbose=0,
            callbacks=[report],
            # Lost workers are counted in the trial folder, where progress resets the count.
            failure_config=tune.FailureConfig(max_failures=-1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    tuner.fit()
