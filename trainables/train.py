"""The training loop: `epochs(config, store)` trains a trial and yields the metrics of each epoch.

The loop runs in the process that calls it: a worker of Ray Tune, `python -m trainables` or a
debugger. It does not need Ray. If the process ends for any reason, calling `epochs` again with the
same store resumes from the last checkpoint. On a CPU, the results are bitwise equal to those of an
uninterrupted training.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Generator, Mapping
from typing import Any

import torch

from trainables import plugins
from trainables.config import TrialConfig
from trainables.measure import device_name, reset_peak_memory
from trainables.store import (
    COMPLETED,
    DIVERGED,
    FAILED,
    MAX_LOST_WORKERS,
    OOM,
    StoreError,
    TrialStore,
)
from trainables.team import Team
from trainables.telemetry import rows
from trainables.trainer import Diverged, Trainer
from trainables.workloads import workload

__all__ = ["COMMIT_SECONDS", "Diverged", "Epochs", "Trainer", "epochs", "headline"]

Epochs = Generator[dict[str, float], bool | None, None]
COMMIT_SECONDS = 30.0  # of training between commits


def epochs(
    config: TrialConfig,
    store: TrialStore,
    *,
    device: str | torch.device = "cpu",
    commit_every: float = COMMIT_SECONDS,
    diagnostics: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Epochs:
    """Train a trial from its last checkpoint to the end.

    The terminal status is written before the last epoch is yielded. A trial with a terminal status
    yields nothing. After `send(True)` the generator commits and ends, so that another process can
    resume the trial.

    Args:
        config: The trial.
        store: The trial folder, after `store.create()`.
        device: The device to train on.
        commit_every: Seconds of training between commits; 0 commits after each epoch.
        diagnostics: Log the preconditioner's diagnostics of each layer. They do not change the
            results of the training.
        provenance: Facts about this worker for `attempts.jsonl`.

    Yields:
        The metrics of each epoch, including `epoch`, which is counted from 0.

    Raises:
        OSError: The folder cannot be written, or the data cannot be read (`DataError`). No status
            is written.
        StoreError: Another driver has locked the output folder, the trial folder is damaged, or the
            copy of a plugin cannot be used. No status is written.
    """
    if store.status() is not None:
        return
    try:
        plugins.load_copies(store.root, config)
    except plugins.PluginError as error:  # on another attempt, it would be the same
        raise StoreError(str(error)) from error
    team = Team.current()
    folder = team.store(store)
    versions = {"torch": torch.__version__, "device": device_name(device)}
    lost = folder.begin({**versions, **(provenance or {})})
    if lost >= MAX_LOST_WORKERS:
        place = f"at epoch {len(folder.epochs())}"
        folder.finish(FAILED, reason=f"{lost} workers died {place} without a commit")
        return
    try:
        trainer = Trainer(config, torch.device(device), team, diagnostics)
        yield from _train(trainer, folder, commit_every)
    except Diverged as result:
        folder.log(f"diverged: {result}")
        folder.finish(DIVERGED, reason=str(result), **result.details)
    except (torch.OutOfMemoryError, MemoryError) as error:
        folder.log(traceback.format_exc())
        folder.finish(OOM, reason=str(error).partition("\n")[0] or "out of memory")
        team.leave()
    except (OSError, StoreError):
        raise
    except Exception as error:
        if team.lost_process(error):
            raise
        folder.log(traceback.format_exc())
        folder.finish(FAILED, reason=f"{type(error).__name__}: {error}".partition("\n")[0])
        team.leave()


def headline(config: TrialConfig, metrics: Mapping[str, float]) -> str:
    """Return the headline metric of an evaluation as text, such as `accuracy 98.50%`."""
    metric = workload(config.workload).task.headline
    return f"{metric.name} {metric.show(metrics[f'{config.evaluation}/{metric.name}'])}"


def _train(trainer: Trainer, store: TrialStore, commit_every: float) -> Epochs:
    epochs = trainer.config.epochs
    checkpoint = store.load()
    if checkpoint is not None:
        trainer.load_state_dict(checkpoint[1])
    elif len(store.epochs()) == epochs:  # a worker was killed before it wrote the status
        store.finish(COMPLETED)
        return
    reset_peak_memory(trainer.device)
    committed, committing = time.monotonic(), 0.0
    for epoch in range(0 if checkpoint is None else checkpoint[0] + 1, epochs):
        metrics = {**trainer.run_epoch(epoch), "time/checkpoint_s": committing}
        store.record(epoch, metrics, rows(epoch, trainer.table))
        committing = 0.0
        if epoch == epochs - 1:
            store.finish(COMPLETED)
        elif time.monotonic() - committed >= commit_every:
            start = time.monotonic()
            store.commit(trainer.state_dict())
            committed = time.monotonic()
            committing = committed - start
        leave = yield {"epoch": epoch, **metrics}
        if leave:
            if epoch < epochs - 1 and not committing:
                store.commit(trainer.state_dict())
            return
