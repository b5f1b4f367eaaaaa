"""The one training loop: `epochs(config, store)` trains a trial in this process and yields each epoch's metrics.

It needs torch alone. Ray Tune, a debugger and a bare GPU machine all run this generator. Whatever happens to the
process, calling it again with the same store goes on from the last commit, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import precond
from trainables.config import TrialConfig, stream_seed
from trainables.data import TensorData
from trainables.store import COMPLETED, DIVERGED, FAILED, MAX_LOST_WORKERS, OOM, StoreError, TrialStore
from trainables.workloads import workload

Epochs = Generator[dict[str, float], None, None]
COMMIT_SECONDS = 30.0  # of training between commits; what a killed worker can lose


class Diverged(Exception):
    """The loss is no longer finite: a result, not an error."""

    def __init__(self, epoch: int, step: int, value: float):
        super().__init__(f"loss = {value} at epoch {epoch}, step {step}")
        self.details = {"epoch": epoch, "step": step, "value": str(value)}


def epochs(
    config: TrialConfig,
    store: TrialStore,
    *,
    device: str | torch.device = "cpu",
    commit_every: float = COMMIT_SECONDS,
    provenance: Mapping[str, Any] | None = None,
) -> Epochs:
    """Train from the last commit to the end; the terminal status is written before the last epoch is yielded.

    A trial that has a terminal status already yields nothing.

    Args:
        config: The trial.
        store: Its folder, created.
        device: Where to train.
        commit_every: Seconds of training between commits; 0 commits after each epoch.
        provenance: What to note about this worker in `attempts.jsonl`.

    Yields:
        Each epoch's metrics, `epoch` (from 0) included.

    Raises:
        OSError: The folder cannot be written; the trial stays in flight.
        StoreError: The folder belongs to another driver or is damaged; likewise.
    """
    if store.status() is not None:
        return
    lost = store.begin({"torch": torch.__version__, "device": device_name(device), **(provenance or {})})
    if lost >= MAX_LOST_WORKERS:
        store.finish(FAILED, reason=f"{lost} workers died at epoch {len(store.epochs())} without a commit")
        return
    try:
        yield from _train(config, store, torch.device(device), commit_every)
    except Diverged as result:
        store.log(f"diverged: {result}")
        store.finish(DIVERGED, reason=str(result), **result.details)
    except (torch.OutOfMemoryError, MemoryError) as error:
        store.log(traceback.format_exc())
        store.finish(OOM, reason=str(error).partition("\n")[0] or "out of memory")
    except (OSError, StoreError):
        raise
    except Exception as error:
        store.log(traceback.format_exc())
        store.finish(FAILED, reason=f"{type(error).__name__}: {error}".partition("\n")[0])


def _train(config: TrialConfig, store: TrialStore, device: torch.device, commit_every: float) -> Epochs:
    trainer = Trainer(config, device)
    checkpoint = store.load()
    if checkpoint is not None:
        trainer.load_state_dict(checkpoint[1])
    elif len(store.epochs()) == config.epochs:  # killed between the last line and the status
        store.finish(COMPLETED)
        return
    reset_peak_memory(device)
    committed = time.monotonic()
    for epoch in range(0 if checkpoint is None else checkpoint[0] + 1, config.epochs):
        metrics = trainer.run_epoch(epoch)
        store.record(epoch, metrics)
        if epoch == config.epochs - 1:
            store.finish(COMPLETED)
        elif time.monotonic() - committed >= commit_every:
            store.commit(trainer.state_dict())
            committed = time.monotonic()
        yield {"epoch": epoch, **metrics}


class Trainer:
    """Model, optimizer, schedule and data of one trial.

    Args:
        config: The trial.
        device: Where to train.
    """

    def __init__(self, config: TrialConfig, device: torch.device):
        chosen = workload(config.workload)
        self.config = config
        self.device = device
        self.data: TensorData = chosen.data(device)
        torch.manual_seed(stream_seed(config.seed, "init"))
        self.model: nn.Module = chosen.model().to(device)
        self.optimizer = build_optimizer(config, self.model)
        steps = config.epochs * self.data.steps_per_epoch(config.batch_size)
        self.scheduler = LambdaLR(self.optimizer, schedule(config.schedule, steps))

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch and evaluate; metrics by name.

        Raises:
            Diverged: A loss was not finite.
        """
        start = time.monotonic()
        torch.manual_seed(stream_seed(self.config.seed, "model", epoch))  # dropout and the like
        losses, accuracy = self._train_epoch(stream_seed(self.config.seed, "order", epoch))
        self._check(epoch, losses)
        trained = time.monotonic()
        test_loss, test_accuracy = self.evaluate()
        self._check(epoch, [*losses[:-1], test_loss])
        return {
            "train/loss": sum(losses) / len(losses),
            "train/accuracy": accuracy,
            "test/loss": test_loss,
            "test/accuracy": test_accuracy,
            "time/train_s": trained - start,
            "time/eval_s": time.monotonic() - trained,
            "mem/peak_mb": peak_memory_mb(self.device),
        }

    def _train_epoch(self, seed: int) -> tuple[list[float], float]:
        """The loss of each step, and the accuracy while training. The device is read once, at the end."""
        self.model.train()
        losses: list[Tensor] = []
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for inputs, labels in self.data.train_batches(self.config.batch_size, seed):
            self.optimizer.zero_grad()
            outputs = self.model(inputs)
            loss = F.cross_entropy(outputs, labels)
            precond.backward(loss, self.optimizer)
            self.optimizer.step()
            self.scheduler.step()
            losses.append(loss.detach())
            correct += (outputs.argmax(1) == labels).sum()
        return torch.stack(losses).tolist(), correct.item() / (len(losses) * self.config.batch_size)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test set."""
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for inputs, labels in self.data.test_batches():
            outputs = self.model(inputs)
            totals[0] += F.cross_entropy(outputs, labels, reduction="sum")
            totals[1] += (outputs.argmax(1) == labels).sum()
        loss, accuracy = (totals / len(self.data.test_labels)).tolist()
        return loss, accuracy

    def _check(self, epoch: int, losses: list[float]) -> None:
        for step, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise Diverged(epoch, step, loss)

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch needs; random streams are not in it, they are made anew from the seed."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def build_optimizer(config: TrialConfig, model: nn.Module) -> Optimizer:
    """The trial's optimizer; the trial's seed seeds whatever it draws."""
    seed = {"seed": stream_seed(config.seed, "optimizer")} if "seed" in precond.defaults(config.optimizer) else {}
    return precond.build(config.optimizer, model, **config.hyperparameters, **seed)


def schedule(name: str, steps: int) -> Any:
    """Factor of the learning rate at a step of a run of `steps` steps.

    Raises:
        ValueError: Unknown schedule.
    """
    if name == "cosine":
        return lambda step: (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
    if name == "constant":
        return lambda step: 1.0
    raise ValueError(f'schedule = "{name}": must be cosine or constant')


def device_name(device: str | torch.device) -> str:
    """Name of the hardware: the GPU's, or `cpu`."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak: a process's high-water mark outlives the trial that set it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the mark is the process's
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak since the last reset in MiB: allocated on a GPU, resident otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
