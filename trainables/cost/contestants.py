"""Contestants of the cost benchmark: an optimizer with its own model, whose next step can be of any kind.

A step is of one of three kinds: *plain*, *statistics* (the forward is recorded, too) and *refresh* (the factors are
computed, too). The intervals decide how often each kind is due. The mean cost of a step is therefore the mean over the
kinds, weighted with their shares of one common period of all intervals, and no whole period has to be timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import precond
from precond.optimizer import Preconditioned

PLAIN, STATISTICS, REFRESH, MIXED = "plain", "statistics", "refresh", "mixed"
LEARNING_RATE = 1e-3  # small: nothing may diverge, and denormal numbers are slow
Batch = tuple[Tensor, Tensor]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Kind:
    """A kind of step.

    Attributes:
        name: `plain`, `statistics` or `refresh`; `mixed` where the steps of a period are only timed together.
        weight: Its share of all steps.
        place: Number of a step of this kind.
        length: Consecutive steps in a measurement.
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
        kinds: Kinds of its steps; the weights add up to 1.
        place: Sets the number of the next step.
    """

    name: str
    model: nn.Module
    optimizer: Optimizer
    kinds: list[Kind]
    place: Callable[[int], None]

    def train(self, inputs: Tensor, labels: Tensor) -> None:
        """Take one step, as the training loop does."""
        self.optimizer.zero_grad()
        precond.backward(F.cross_entropy(self.model(inputs), labels), self.optimizer)
        self.optimizer.step()

    def seconds(self, kind: Kind, batch: Batch, repeat: int, clock: Clock) -> float:
        """Return the mean time of a step of a kind; the device is synchronized before and after, not between."""

        def steps() -> None:
            for _ in range(repeat):
                self.place(kind.place)
                for _ in range(kind.length):
                    self.train(*batch)

        return timed(steps, batch[0].device, clock) / (repeat * kind.length)

    def warm_up(self, batch: Batch) -> None:
        """Take a first step, which computes the first factors, and one step of each kind."""
        self.train(*batch)
        for kind in self.kinds:
            self.seconds(kind, batch, 1, time.perf_counter)


def build(name: str, model: nn.Module, stated: Mapping[str, Any]) -> Contestant:
    """Return a contestant with a registered optimizer; torch's own get `foreach=True`.

    Args:
        name: Registered name.
        model: The model to train, on its device.
        stated: Hyperparameters other than the defaults; the learning rate is `LEARNING_RATE`.

    Raises:
        HyperparameterError: Unknown name or wrong value.
    """
    optimizer = precond.build(name, model, **{**stated, "lr": LEARNING_RATE})
    if isinstance(optimizer, Preconditioned):

        def place(step: int) -> None:
            optimizer.steps = step
            optimizer._schedule_recording()  # as the step before would have

        algorithm = optimizer.algorithm
        period = _period(asdict(algorithm))  # type: ignore[call-overload]
        kinds = kinds_of(period, algorithm.statistics_due, algorithm.refresh_due)
        return Contestant(name, model, optimizer, kinds, place)
    for group in optimizer.param_groups:
        if "foreach" in group:
            group["foreach"] = True
    period = _period({**precond.defaults(name), **stated})
    return Contestant(
        name,
        model,
        optimizer,
        [Kind(MIXED if period > 1 else PLAIN, 1.0, 0, period)],
        lambda step: None,
    )


def kinds_of(
    period: int, statistics_due: Callable[[int], bool], refresh_due: Callable[[int], bool]
) -> list[Kind]:
    """Return the kinds of steps, with their exact shares of a period: a common multiple of all intervals.

    The period is the second one, because every algorithm creates its first factor at the beginning.
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
    return math.lcm(
        *(value for name, value in hyperparameters.items() if name.endswith("interval"))
    )


def timed(call: Callable[[], Any], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return the seconds of a call, from an idle device until the device has finished."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    start = clock()
    call()
    wait(device)
    return clock() - start
