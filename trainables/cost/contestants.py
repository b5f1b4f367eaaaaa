"""What the cost benchmark times: an optimizer with a model of its own, whose next step can be of any kind.

A step is of one of three kinds: *plain*, *statistics* (the forward is recorded, too) and *refresh* (new factors are
made, too). How often each is due follows from the intervals, so the mean cost of a step is the mean over the kinds,
weighted with how often they are due in one common period of all intervals: exact, without timing a whole period.
"""

from __future__ import annotations

import math
import time
from collections import Counter
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


@dataclass(frozen=True)
class Kind:
    """A kind of step.

    Attributes:
        name: `plain`, `statistics` or `refresh`; `mixed` where the steps of a period are only timed together.
        weight: Its share of all steps.
        place: Number of a step of this kind.
        length: How many consecutive steps make a measurement.
    """

    name: str
    weight: float
    place: int
    length: int = 1


@dataclass
class Contestant:
    """An optimizer at work on its own copy of a model.

    Attributes:
        name: Of the optimizer.
        model: In training mode.
        optimizer: For it.
        kinds: Of its steps; the weights add up to 1.
        place: Makes the next step that of a number.
    """

    name: str
    model: nn.Module
    optimizer: Optimizer
    kinds: list[Kind]
    place: Callable[[int], None]

    def train(self, inputs: Tensor, labels: Tensor) -> None:
        """One step, as the training loop does it."""
        self.optimizer.zero_grad()
        precond.backward(F.cross_entropy(self.model(inputs), labels), self.optimizer)
        self.optimizer.step()

    def seconds(self, kind: Kind, batch: tuple[Tensor, Tensor], repeat: int, clock: Callable[[], float]) -> float:
        """Mean time of a step of one kind; the device is waited for before and after, not between."""
        synchronize(batch[0].device)
        start = clock()
        for _ in range(repeat):
            self.place(kind.place)
            for _ in range(kind.length):
                self.train(*batch)
        synchronize(batch[0].device)
        return (clock() - start) / (repeat * kind.length)

    def warm_up(self, batch: tuple[Tensor, Tensor]) -> None:
        """A first step, which makes the first factors, and one of each kind."""
        self.train(*batch)
        for kind in self.kinds:
            self.seconds(kind, batch, 1, time.perf_counter)


def build(name: str, model: nn.Module, stated: Mapping[str, Any]) -> Contestant:
    """A registered optimizer; those of torch with `foreach=True`.

    Args:
        name: Its registered name.
        model: To train; on its device.
        stated: Hyperparameters other than the defaults; the learning rate is `LEARNING_RATE`.

    Raises:
        HyperparameterError: Unknown name or wrong value.
    """
    optimizer = precond.build(name, model, **{**stated, "lr": LEARNING_RATE})
    if isinstance(optimizer, Preconditioned):

        def place(step: int) -> None:
            optimizer.steps = step
            optimizer._schedule_recording()  # as the step before would have

        return Contestant(name, model, optimizer, kinds_of(optimizer), place)
    for group in optimizer.param_groups:
        if "foreach" in group:
            group["foreach"] = True
    period = math.lcm(*(v for key, v in {**precond.defaults(name), **stated}.items() if key.endswith("interval")))
    return Contestant(name, model, optimizer, [Kind(MIXED if period > 1 else PLAIN, 1.0, 0, period)], lambda step: None)


def kinds_of(optimizer: Preconditioned) -> list[Kind]:
    """The kinds of steps that an algorithm takes, with their exact shares."""
    algorithm = optimizer.algorithm
    period = math.lcm(*(value for key, value in asdict(algorithm).items() if key.endswith("interval")))  # type: ignore[call-overload]
    places: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for step in range(period, 2 * period):  # not at the beginning, where every algorithm makes its first factor
        name = STATISTICS if algorithm.statistics_due(step) else PLAIN
        name = REFRESH if algorithm.refresh_due(step) else name
        counts[name] += 1
        places.setdefault(name, step)
    return [Kind(n, counts[n] / period, places[n]) for n in (PLAIN, STATISTICS, REFRESH) if n in counts]


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
