"""A simulation of trials on machines that can be lost at any time.

The times between the losses of a machine are exponential, as in
Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps" (FGCS 2006).
A lost machine is replaced at once, and its trials resume from their last commits.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np


@dataclass(frozen=True)
class Training:
    """The training of a trial without interruptions.

    Attributes:
        seconds: The duration.
        interval: Seconds between two commits.
    """

    seconds: float
    interval: float


@dataclass(frozen=True)
class Fleet:
    """Machines that train trials.

    Attributes:
        machines: The largest number of machines.
        slots: Concurrent trials on a machine.
        start_seconds: Time until a new machine trains.
        rate: Expected losses of a machine per second.
    """

    machines: int
    slots: int
    start_seconds: float
    rate: float


@dataclass(frozen=True)
class Outcome:
    """The result of a simulation.

    Attributes:
        seconds: Time until the last trial ends.
        machine_seconds: Sum of the times that the machines are up.
        lost_seconds: Training that is repeated, as the sum over all trials.
    """

    seconds: float
    machine_seconds: float
    lost_seconds: float


def simulate(trainings: Sequence[Training], fleet: Fleet, rng: np.random.Generator) -> Outcome:
    """Simulate the trials once, with random losses of machines.

    A free slot takes the next trial, interrupted ones first. A machine ends when it has no trial and
    no trial waits.

    Args:
        trainings: The trials in the order of their start.
        fleet: The machines.
        rng: The source of the losses.
    """
    return _Simulation(trainings, fleet, rng).run()


@dataclass(eq=False)
class _Machine:
    """A machine between its start and its loss or end.

    Attributes:
        start: Time of its start.
        up: True before its loss or end.
        running: The time at which each of its trials began to run, by the trial's number.
    """

    start: float
    up: bool = True
    running: dict[int, float] = field(default_factory=dict)


class _Simulation:
    """The state of a simulation: a queue of trials, and a heap of events."""

    def __init__(self, trainings: Sequence[Training], fleet: Fleet, rng: np.random.Generator):
        self.trainings, self.fleet, self.rng = trainings, fleet, rng
        self.waiting = deque(range(len(trainings)))
        self.done = [0.0] * len(trainings)  # committed training of each trial, in seconds
        self.events: list[tuple[float, int, _Machine, Callable[[float], None]]] = []
        self.numbers = count()  # the order of events at the same time
        self.seconds = self.machine_seconds = self.lost_seconds = 0.0

    def run(self) -> Outcome:
        """Process the events in the order of their times."""
        for _ in range(min(self.fleet.machines, -(-len(self.waiting) // self.fleet.slots))):
            self._start(0.0)
        while self.events:
            time, _, machine, event = heapq.heappop(self.events)
            if machine.up:
                event(time)
        return Outcome(self.seconds, self.machine_seconds, self.lost_seconds)

    def _add(self, time: float, machine: _Machine, event: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), machine, event))

    def _start(self, time: float) -> None:
        machine = _Machine(time)
        self._add(time + self.fleet.start_seconds, machine, partial(self._fill, machine))
        if self.fleet.rate:
            loss = time + self.rng.exponential(1 / self.fleet.rate)
            self._add(loss, machine, partial(self._lose, machine))

    def _fill(self, machine: _Machine, time: float) -> None:
        """Start waiting trials on the free slots of a machine; end it if it has no trial."""
        while self.waiting and len(machine.running) < self.fleet.slots:
            trial = self.waiting.popleft()
            machine.running[trial] = time
            left = self.trainings[trial].seconds - self.done[trial]
            self._add(time + left, machine, partial(self._complete, machine, trial))
        if not machine.running:
            self._end(machine, time)

    def _complete(self, machine: _Machine, trial: int, time: float) -> None:
        del machine.running[trial]
        self.seconds = time
        self._fill(machine, time)

    def _lose(self, machine: _Machine, time: float) -> None:
        """Return the trials of a lost machine to the queue, and start another machine for them."""
        for trial, start in reversed(machine.running.items()):
            interval = self.trainings[trial].interval
            committed = (time - start) // interval * interval
            self.done[trial] += committed
            self.lost_seconds += time - start - committed
            self.waiting.appendleft(trial)
        self._end(machine, time)
        if self.waiting:
            self._start(time)

    def _end(self, machine: _Machine, time: float) -> None:
        machine.up = False
        self.machine_seconds += time - machine.start
