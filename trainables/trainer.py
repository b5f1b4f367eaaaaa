"""The model, optimizer, schedule and data of a trial, and the training of one epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LambdaLR

import precond
from precond import closures
from precond.hessian import TakesLoss
from trainables.config import TrialConfig, stream_seed
from trainables.data.base import Data, Loading, default_data_dir
from trainables.data.transforms import Mixer
from trainables.descent import build_optimizer, schedule
from trainables.measure import Phases, Usage, peak_memory_mb
from trainables.settings import NEUTRAL
from trainables.team import ALONE, Team
from trainables.telemetry import Telemetry
from trainables.workloads import workload

STATEFUL = ("model", "optimizer", "scheduler")


class Diverged(Exception):
    """The loss is not finite. This is a result of the trial, not an error."""

    def __init__(self, epoch: int, step: int, value: float):
        super().__init__(f"loss = {value} at epoch {epoch}, step {step}")
        self.details = {"epoch": epoch, "step": step, "value": str(value)}


class Trainer:
    """The model, optimizer, schedule and data of a trial.

    Args:
        config: The trial.
        device: The device to train on.
        team: The processes that share each batch.
        diagnostics: Read the optimizer's diagnostics. The attribute `table` then contains those of
            the last epoch by layer.
    """

    def __init__(
        self,
        config: TrialConfig,
        device: torch.device,
        team: Team = ALONE,
        diagnostics: bool = False,
    ):
        chosen = workload(config.workload)
        chosen.check_content(config.data)
        self.config, self.device, self.team = config, device, team
        share = config.train_fraction, team.rank, team.size
        loading = Loading(device, default_data_dir(), config.settings, *share)
        self.data: Data = chosen.source.load(loading)
        self._settings = {**NEUTRAL, **config.settings}
        self._task = chosen.task
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
        self.team.set_loss_weight(self.optimizer, self._weight)
        compiled: Any = torch.compile(self.model) if config.compile else self.model
        self._forward: Callable[[Any], Any] = compiled
        self._train_forward: Callable[[Any], Any] = self.team.wrap(compiled)
        steps = self.data.steps_per_epoch(config.batch_size)
        warmup = self._settings["warmup_epochs"] * steps
        factor = schedule(config.schedule, config.epochs * steps, warmup)
        self.scheduler = LambdaLR(self.optimizer, factor)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train an epoch, evaluate, and return the metrics by name.

        `time/train_s` is the sum of `time/data_s`, `time/forward_backward_s` (including the
        statistics of preconditioners), `time/step_s` and `time/other_s`.

        Raises:
            Diverged: A loss was not finite.
        """
        start = time.perf_counter()
        # This seeds the model's random operations, such as dropout.
        torch.manual_seed(stream_seed(self.config.seed, "model", epoch) + self.team.rank)
        phases = Phases(self.device)
        losses, trained = self._train_epoch(epoch, phases)
        self._check(epoch, losses)
        times = {f"time/{phase}_s": seconds for phase, seconds in phases.seconds().items()}
        self.table = self.telemetry.read()
        train_s = time.perf_counter() - start
        evaluated = self.evaluate()
        # A loss of the evaluation that is not finite is reported as that of the last step.
        self._check(epoch, [*losses[:-1], evaluated["loss"]])
        return {
            **{f"train/{name}": value for name, value in trained.items()},
            **{f"{self.config.evaluation}/{name}": value for name, value in evaluated.items()},
            "time/train_s": train_s,
            **times,
            "time/other_s": train_s - sum(times.values()),
            "time/eval_s": time.perf_counter() - start - train_s,
            "mem/peak_mb": peak_memory_mb(self.device),
            **self._usage.read(),
            **self.telemetry.metrics(self.table, train_s),
        }

    def _train_epoch(self, epoch: int, phases: Phases) -> tuple[list[float], dict[str, float]]:
        """Train an epoch, and return the loss of each step, and the mean loss with the metrics.

        Values are copied from the device only after the last step.
        """
        self.model.train()
        order = stream_seed(self.config.seed, "order", epoch)
        mixing = stream_seed(self.config.seed, "mixing", epoch)
        losses: list[Tensor] = []
        sums = self._no_sums()
        for step, batch in enumerate(self.data.train_batches(self.config.batch_size, order)):
            inputs, targets = self._mixer(*batch, seed=mixing + step)
            inputs = self._laid_out(inputs)
            targets = self._task.targets(inputs, targets)
            phases.mark("data")
            loss, measures = self._train_step(inputs, targets, phases)
            losses.append(loss)
            sums += measures
        values = (self.team.total(torch.stack(losses)) / self.team.size).tolist()
        units, *totals = self.team.total(sums).tolist()
        return values, self._metrics(sum(values) / len(values), units, totals)

    def _train_step(self, inputs: Any, targets: Any, phases: Phases) -> tuple[Tensor, Tensor]:
        """Take a step, and return the loss of its batch and the sums of the task's measures.

        The optimizer may evaluate the batch again at other weights. These evaluations belong to the
        phase of the step, and are not part of the results.
        """
        results: list[tuple[Tensor, Tensor]] = []

        def evaluate() -> Tensor:
            self.optimizer.zero_grad()
            with self._context():
                outputs = self._train_forward(inputs)
                loss = self._task.loss(outputs, targets, self._settings["label_smoothing"])
            loss = loss if self._weight == 1 else loss * self._weight
            precond.backward(loss, self.optimizer)
            if not results:
                results.append((loss.detach(), self._sums(outputs, targets)))
                phases.mark("forward_backward")
            return loss.detach()

        closures.step(self.optimizer, evaluate)
        self.scheduler.step()
        phases.mark("step")
        return results[0]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the mean loss and the metrics on the test set or the held-out examples.

        The processes of the team divide the batches among themselves.
        """
        self.model.eval()
        self.team.copy_buffers(self.model)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        sums = self._no_sums()
        batches = islice(self.data.test_batches(), self.team.rank, None, self.team.size)
        with precond.evaluating(self.optimizer):
            for batch_inputs, batch_targets in batches:
                inputs = self._laid_out(batch_inputs)
                targets = self._task.targets(inputs, batch_targets)
                with self._context():
                    outputs = self._forward(inputs)
                    loss += self._task.loss_sum(outputs, targets)
                sums += self._sums(outputs, targets)
        total, units, *measures = self.team.total(torch.cat([loss[None], sums])).tolist()
        return self._metrics(total / units, units, measures)

    def _no_sums(self) -> Tensor:
        """Return zeros to which the sums of batches are added."""
        size = 1 + len(self._task.metrics)
        return torch.zeros(size, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def _sums(self, outputs: Any, targets: Any) -> Tensor:
        """Return the number of units of a batch and the sums of the task's measures, in float64."""
        measures = self._task.measures(outputs, targets)
        units = torch.as_tensor(self._task.units(targets), dtype=torch.float64)
        return torch.cat([units.to(measures.device)[None], measures])

    def _metrics(self, loss: float, units: float, measures: Sequence[float]) -> dict[str, float]:
        """Return the loss and the task's metrics, given the sums of its measures."""
        return {"loss": loss, **self._task.values(loss, [total / units for total in measures])}

    def _laid_out(self, inputs: Any) -> Any:
        """Return images in the memory format of the trial, and other inputs unchanged."""
        if not isinstance(inputs, Tensor) or inputs.dim() != 4:
            return inputs
        return inputs.contiguous(memory_format=self._layout)

    def _context(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        stack = ExitStack()
        if self.config.precision == "bf16":
            stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
        if isinstance(self.optimizer, TakesLoss):
            # The optimizer needs second derivatives, which only this attention kernel provides.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        return stack

    def _check(self, epoch: int, losses: list[float]) -> None:
        for step, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise Diverged(epoch, step, loss)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next epoch needs.

        It contains no generator states, because each epoch seeds its random streams.
        """
        return {name: getattr(self, name).state_dict() for name in STATEFUL}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
