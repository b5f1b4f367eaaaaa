"""The training loop: `epochs(config, store)` trains a trial in this process and yields each epoch's metrics.

It needs torch alone; Ray Tune, a debugger and a bare GPU machine all run this generator. If the process ends for any
reason, calling it again with the same store resumes from the last commit, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LambdaLR

import precond
from precond.hessian import TakesLoss
from trainables import plugins
from trainables.config import TrialConfig, stream_seed
from trainables.data.base import Data, Loading, default_data_dir
from trainables.data.transforms import Mixer
from trainables.descent import build_optimizer, schedule
from trainables.measure import Phases, Usage, device_name, peak_memory_mb, reset_peak_memory
from trainables.settings import NEUTRAL
from trainables.store import (
    COMPLETED,
    DIVERGED,
    FAILED,
    MAX_LOST_WORKERS,
    OOM,
    StoreError,
    TrialStore,
)
from trainables.team import ALONE, Team
from trainables.telemetry import Telemetry, rows
from trainables.workloads import workload

Epochs = Generator[dict[str, float], bool | None, None]
COMMIT_SECONDS = 30.0  # of training between commits; a killed worker loses at most this
STATEFUL = ("model", "optimizer", "scheduler")


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
    diagnostics: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Epochs:
    """Train from the last commit to the end; the terminal status is written before the last epoch is yielded.

    A trial with a terminal status yields nothing. After `send(True)` the generator commits and ends, so that another
    process can resume the trial.

    Args:
        config: The trial.
        store: Its folder, created.
        device: The device to train on.
        commit_every: Seconds of training between commits; 0 commits after each epoch.
        diagnostics: Log the preconditioner's diagnostics of each layer; no number of the training changes.
        provenance: Facts about this worker for `attempts.jsonl`.

    Yields:
        Each epoch's metrics, `epoch` (from 0) included.

    Raises:
        OSError: The folder cannot be written; the trial stays in flight.
        StoreError: The folder belongs to another driver or is damaged; the trial stays in flight.
    """
    if store.status() is not None:
        return
    if config.plugin:
        plugins.load(plugins.kept(store.root, config.plugin), config.plugin)
    team = Team.here()
    folder = team.store(store)
    lost = folder.begin(
        {"torch": torch.__version__, "device": device_name(device), **(provenance or {})}
    )
    if lost >= MAX_LOST_WORKERS:
        folder.finish(
            FAILED, reason=f"{lost} workers died at epoch {len(folder.epochs())} without a commit"
        )
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
        if team.lost(error):
            raise
        folder.log(traceback.format_exc())
        folder.finish(FAILED, reason=f"{type(error).__name__}: {error}".partition("\n")[0])
        team.leave()


def score(metrics: Mapping[str, float]) -> float:
    """Return the accuracy on the test set, or on the held-out examples that replace it."""
    return metrics["test/accuracy"] if "test/accuracy" in metrics else metrics["val/accuracy"]


def _train(trainer: Trainer, store: TrialStore, commit_every: float) -> Epochs:
    epochs = trainer.config.epochs
    checkpoint = store.load()
    if checkpoint is not None:
        trainer.load_state_dict(checkpoint[1])
    elif len(store.epochs()) == epochs:  # killed between the last line and the status
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


class Trainer:
    """Model, optimizer, schedule and data of one trial.

    Args:
        config: The trial.
        device: The device to train on.
        team: The processes that share each batch.
        diagnostics: Read the optimizer's diagnostics; `table` then has the layers of the last epoch.
    """

    def __init__(
        self,
        config: TrialConfig,
        device: torch.device,
        team: Team = ALONE,
        diagnostics: bool = False,
    ):
        chosen = workload(config.workload)
        self.config, self.device, self.team = config, device, team
        share = config.train_fraction, team.rank, team.size
        self.data: Data = chosen.source.load(
            Loading(device, default_data_dir(), config.settings, *share)
        )
        self._settings = {**NEUTRAL, **config.settings}
        self._mixer = Mixer(self._settings, chosen.source.classes)
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        torch.manual_seed(stream_seed(config.seed, "init"))
        self.model: nn.Module = chosen.build(config.settings).to(device)
        self.model.to(memory_format=self._layout)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(config, self.model)
        self.telemetry = Telemetry(self.optimizer, diagnostics)
        self.table = self.telemetry.read()
        self._usage = Usage(device)
        self._weight = self.team.weight(config.batch_size)
        self.team.tell(self.optimizer, self._weight)
        compiled: Any = torch.compile(self.model) if config.compile else self.model
        self._forward: Callable[[Tensor], Tensor] = compiled
        self._train_forward: Callable[[Tensor], Tensor] = self.team.wrap(compiled)
        steps = self.data.steps_per_epoch(config.batch_size)
        warmup = self._settings["warmup_epochs"] * steps
        self.scheduler = LambdaLR(
            self.optimizer, schedule(config.schedule, config.epochs * steps, warmup)
        )

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch, evaluate, and return metrics by name.

        `time/train_s` is the sum of data, forward and backward (statistics included), step, and `other`.

        Raises:
            Diverged: A loss was not finite.
        """
        start = time.perf_counter()
        torch.manual_seed(
            stream_seed(self.config.seed, "model", epoch) + self.team.rank
        )  # dropout and the like
        phases = Phases(self.device)
        losses, accuracy = self._train_epoch(epoch, phases)
        self._check(epoch, losses)
        spent = {f"time/{phase}_s": seconds for phase, seconds in phases.seconds().items()}
        self.table = self.telemetry.read()
        train_s = time.perf_counter() - start
        loss, evaluated = self.evaluate()
        self._check(epoch, [*losses[:-1], loss])
        part = "test" if self.config.train_fraction == 1 else "val"
        return {
            "train/loss": sum(losses) / len(losses),
            "train/accuracy": accuracy,
            f"{part}/loss": loss,
            f"{part}/accuracy": evaluated,
            "time/train_s": train_s,
            **spent,
            "time/other_s": train_s - sum(spent.values()),
            "time/eval_s": time.perf_counter() - start - train_s,
            "mem/peak_mb": peak_memory_mb(self.device),
            **self._usage.read(),
            **self.telemetry.metrics(self.table, train_s),
        }

    def _train_epoch(self, epoch: int, phases: Phases) -> tuple[list[float], float]:
        """Return the loss of each step, and the accuracy while training; the device is read once, at the end."""
        self.model.train()
        order, mixing = (
            stream_seed(self.config.seed, purpose, epoch) for purpose in ("order", "mixing")
        )
        losses: list[Tensor] = []
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for step, batch in enumerate(self.data.train_batches(self.config.batch_size, order)):
            inputs, labels = self._mixer(*batch, seed=mixing + step)
            inputs = inputs.contiguous(memory_format=self._layout)
            phases.mark("data")
            self.optimizer.zero_grad()
            with self._context():
                outputs = self._train_forward(inputs)
                loss = F.cross_entropy(
                    outputs, labels, label_smoothing=self._settings["label_smoothing"]
                )
            loss = loss if self._weight == 1 else loss * self._weight
            precond.backward(loss, self.optimizer)
            losses.append(loss.detach())
            correct += (
                outputs.argmax(1) == (labels if labels.dim() == 1 else labels.argmax(1))
            ).sum()
            phases.mark("forward_backward")
            self.optimizer.step()
            self.scheduler.step()
            phases.mark("step")
        steps = len(losses)
        means = self.team.total(torch.stack(losses)) / self.team.size
        return means.tolist(), self.team.total(correct).item() / (steps * self.config.batch_size)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Return mean loss and accuracy on the test set or the held-out examples; the team divides the batches."""
        self.model.eval()
        self.team.copy_buffers(self.model)
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for inputs, labels in islice(
            self.data.test_batches(), self.team.rank, None, self.team.size
        ):
            with self._context():
                outputs = self._forward(inputs.contiguous(memory_format=self._layout))
                totals[0] += F.cross_entropy(outputs, labels, reduction="sum")
            totals[1] += (outputs.argmax(1) == labels).sum()
        loss, accuracy = (self.team.total(totals) / self.data.evaluation_examples).tolist()
        return loss, accuracy

    def _context(self) -> AbstractContextManager[Any]:
        """Return the context of a forward."""
        stack = ExitStack()
        if self.config.precision == "bf16":
            stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
        if isinstance(
            self.optimizer, TakesLoss
        ):  # the other kernels of attention have no second derivative
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        return stack

    def _check(self, epoch: int, losses: list[float]) -> None:
        for step, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise Diverged(epoch, step, loss)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch needs, except random streams, which start from the seed."""
        return {name: getattr(self, name).state_dict() for name in STATEFUL}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
