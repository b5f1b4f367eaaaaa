"""Contestants of the cost benchmark: optimizers with their models and their kinds of steps.

There are three kinds of steps. A *plain* step only applies the preconditioners, a *statistics* step
also updates the statistics, and a *refresh* step also computes new factors. The optimizer's
intervals determine how often each kind is due. The mean cost of a step is therefore the mean over
the kinds, weighted with their shares of one common period of all intervals. This avoids timing a
whole period.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

import precond
from precond import closures
from precond.optimizer import Preconditioned
from trainables.data.base import Batch
from trainables.tasks import CLASSIFICATION, Task

PLAIN, STATISTICS, REFRESH, MIXED = "plain", "statistics", "refresh", "mixed"
LEARNING_RATE = 1e-3  # small, because divergence and denormal numbers would distort the times
Clock = Callable[[], float]


@dataclass(frozen=True)
class Kind:
    """A kind of step.

    Attributes:
        name: `plain`, `statistics` or `refresh`; `mixed` if all steps of a period are timed
            together.
        weight: The share of all steps that are of this kind.
        place: Number of a step at which this kind is due.
        length: Number of consecutive steps in a measurement.
    """

    name: str
    weight: float
    place: int
    length: int = 1


@dataclass
class Contestant:
    """An optimizer that trains its own copy of a model.

    Attributes:
        name: Name of the optimizer.
        model: The model, in training mode.
        optimizer: The optimizer of the model.
        kinds: Kinds of the optimizer's steps; their weights add up to 1.
        place: Function that sets the number of the next step.
        task: The task, whose loss is minimised.
    """

    name: str
    model: nn.Module
    optimizer: Optimizer
    kinds: list[Kind]
    place: Callable[[int], None]
    task: Task = CLASSIFICATION

    def train(self, inputs: Any, targets: Any) -> None:
        """Take one step, as the training loop does."""

        def evaluate() -> None:
            self.optimizer.zero_grad()
            precond.backward(self.task.loss(self.model(inputs), targets), self.optimizer)

        closures.step(self.optimizer, evaluate)

    def seconds(self, kind: Kind, batch: Batch, repeat: int, clock: Clock) -> float:
        """Return the mean seconds of a step of a kind.

        The device is synchronized before the first and after the last step, not between the steps.
        """

        def steps() -> None:
            for _ in range(repeat):
                self.place(kind.place)
                for _ in range(kind.length):
                    self.train(*batch)

        return timed(steps, device_of(batch), clock) / (repeat * kind.length)

    def warm_up(self, batch: Batch) -> None:
        """Take a step, which computes the first factors, and then the steps of each kind once."""
        self.train(*batch)
        for kind in self.kinds:
            self.seconds(kind, batch, 1, time.perf_counter)


def build(
    name: str, model: nn.Module, overrides: Mapping[str, Any], foreach: bool | None = True
) -> Contestant:
    """Return a contestant with a registered optimizer. The learning rate is `LEARNING_RATE`.

    Args:
        name: Registered name.
        model: The model to train, on its device.
        overrides: Hyperparameters that differ from the defaults.
        foreach: The option `foreach` of the optimizers of `torch.optim`.

    Raises:
        HyperparameterError: Unknown name or invalid value.
    """
    optimizer = precond.build(name, model, **{**overrides, "lr": LEARNING_RATE})
    if isinstance(optimizer, Preconditioned):

        def place(step: int) -> None:
            optimizer.steps = step
            optimizer._schedule_recording()  # as the previous step would have done

        algorithm = optimizer.algorithm
        period = _period(asdict(algorithm))  # type: ignore[call-overload]
        kinds = kinds_of(period, algorithm.statistics_due, algorithm.refresh_due)
        return Contestant(name, model, optimizer, kinds, place)
    for group in optimizer.param_groups:
        if "foreach" in group:
            group["foreach"] = foreach
    period = _period({**precond.defaults(name), **overrides})
    kinds = [Kind(MIXED if period > 1 else PLAIN, 1.0, 0, period)]
    return Contestant(name, model, optimizer, kinds, place=lambda step: None)


def kinds_of(
    period: int, statistics_due: Callable[[int], bool], refresh_due: Callable[[int], bool]
) -> list[Kind]:
    """Return the kinds of steps, with their exact shares of a period.

    The shares are counted in the second period, because every algorithm also computes factors in
    its first step.

    Args:
        period: A common multiple of all intervals.
        statistics_due: Returns True for the numbers of statistics steps.
        refresh_due: Returns True for the numbers of refresh steps.
    """
    names = [
        REFRESH if refresh_due(step) else STATISTICS if statistics_due(step) else PLAIN
        for step in range(period, 2 * period)
    ]
    return [
        Kind(name, names.count(name) / period, period + names.index(name))
        for name in (PLAIN, STATISTICS, REFRESH)
        if name in names
    ]


def _period(hyperparameters: Mapping[str, Any]) -> int:
    intervals = (value for name, value in hyperparameters.items() if name.endswith("interval"))
    return math.lcm(*intervals)


def device_of(batch: Batch) -> torch.device:
    """Return the device of a batch."""
    return tree_leaves(batch)[0].device


def timed(call: Callable[[], Any], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return the seconds of a call; the device is synchronized before and after it."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    start = clock()
    call()
    wait(device)
    return clock() - start
