"""The cost of an optimizer over a baseline in time and memory: what is measured, and how.

Time. An optimizer X and a baseline B (`torch.optim.SGD(foreach=True)`; for STEVE and EKFAC also Adam) train a model
each, in one process, on one batch that is already on the device. A block times B X X B, where X stands for steps of
each of its kinds (`contestants.py`). The times of the kinds are weighted with their exact shares of the steps in a
period of the intervals, so a block's expectation is the true mean cost per step. Each block gives a ratio X / B;
reported is the median, with a distribution-free 95% interval of the median over the blocks (`intervals.py`). The first
block is discarded. SGD is also timed against itself, which shows the smallest difference that the method resolves.

Shares, as fractions of a step of the baseline: *apply* is a plain step (what every step is with infinite intervals)
minus the baseline's; *statistics* and *refresh* are the extra time of these steps, times their frequency.

Memory. The peak over steps of every kind, in a process that does nothing else, and the exact bytes of the state.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import precond
from precond.bank import named_tensors
from precond.optimizer import Preconditioned
from trainables.cost.contestants import Contestant, build
from trainables.cost.files import configuration
from trainables.cost.race import Batch, Clock, evaluation_seconds, race
from trainables.cost.released import PREFIX, build_released
from trainables.measure import peak_memory_mb, reset_peak_memory
from trainables.workloads import workload

ALSO_AGAINST_ADAM = ("steve", "ekfac")
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


class Setting(NamedTuple):
    """Everything that all contestants share."""

    workload: str
    batch_size: int
    device: torch.device
    channels_last: bool
    stated: Mapping[str, Any]
    reference: Path | None
    faithful: bool = False

    def model(self) -> nn.Module:
        """Return a new model on the device, with the same initial weights in each call."""
        chosen = workload(self.workload)
        torch.manual_seed(0)
        model = chosen.build(chosen.settings({})).to(self.device).train()
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def batch(self) -> Batch:
        """Return synthetic images and labels on the device."""
        chosen = workload(self.workload)
        classes, channels, side, _ = chosen.fit(chosen.settings({}))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, channels, side, side, generator=generator).to(self.device)
        labels = torch.randint(classes, (self.batch_size,), generator=generator).to(self.device)
        return images.to(memory_format=torch.channels_last) if self.channels_last else images, labels

    def contestant(self, name: str) -> Contestant:
        """Return a registered or released optimizer with a new model."""
        if name.startswith(PREFIX):
            assert self.reference is not None
            registered = name.removeprefix(PREFIX)
            return build_released(registered, self.model(), self.known(registered), self.reference)
        return build(name, self.model(), self.known(name))

    def known(self, name: str) -> dict[str, Any]:
        """Return the recipe's hyperparameters of an optimizer, overridden by the stated ones that it has."""
        defaults = precond.defaults(name)
        stated = {key: value for key, value in self.stated.items() if key in defaults}
        known = {**workload(self.workload).recipe.hyperparameters(name, self.faithful), **stated}
        # As in a trial's configuration, where 1 and 1.0 are the same damping.
        return {key: float(v) if isinstance(defaults[key], float) and type(v) is int else v for key, v in known.items()}

    def configuration(self, name: str) -> dict[str, Any]:
        """Return everything that decides the cost of a registered or released optimizer."""
        hyperparameters = {**precond.defaults(name.removeprefix(PREFIX)), **self.known(name.removeprefix(PREFIX))}
        resolution = workload(self.workload).settings({}).get("resolution")
        execution = {"channels_last": self.channels_last, "resolution": resolution}
        return configuration(self.workload, name, hyperparameters, self.batch_size, **execution)


def measure(setting: Setting, name: str, blocks: int, repeat: int, clock: Clock) -> dict[str, Any]:
    """Return the seconds of an optimizer's step and evaluation, and its races against the baselines."""
    batch = setting.batch()
    against, evaluation = {}, math.nan
    for rival in ("sgd", *(["adam"] if name in ALSO_AGAINST_ADAM else [])):
        base, other = setting.contestant(rival), setting.contestant(name)
        base.warm_up(batch)
        other.warm_up(batch)
        against[rival] = race(base, other, batch, blocks, repeat, clock)
        evaluation = evaluation_seconds(other, batch, clock)
    return {
        "step_seconds": against["sgd"]["step_seconds"],
        "evaluation_seconds_per_example": evaluation,
        "against": against,
    }


def footprint(setting: Setting, name: str) -> dict[str, Any]:
    """Return the exact bytes of an optimizer's state, and the peak over steps of every kind.

    This process must do nothing else with the device. On a GPU the peak is the allocator's; on a CPU it is the resident
    high-water mark of the process, which is reset before.
    """
    contestant, batch = setting.contestant(name), setting.batch()
    contestant.warm_up(batch)
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)  # return free memory: else the mark would start at the peak of the warm-up
    reset_peak_memory(setting.device)
    contestant.warm_up(batch)
    return {"peak_bytes": round(peak_memory_mb(setting.device) * 2**20), "state_bytes": state_bytes(contestant)}


def state_bytes(contestant: Contestant) -> dict[str, int]:
    """Return bytes by purpose: `rule` (such as momentum), `algorithm`, `gradient_buffer`, and all `weights`."""
    optimizer = contestant.optimizer
    banks = optimizer._banks if isinstance(optimizer, Preconditioned) else []
    return {
        "rule": sum(tensor.nbytes for tensor in _tensors(dict(optimizer.state))),
        "algorithm": sum(tensor.nbytes for bank in banks for _, tensor in named_tensors(bank.state)),
        "gradient_buffer": sum(bank.buffer.nbytes for bank in banks),
        "weights": sum(parameter.nbytes for parameter in contestant.model.parameters()),
    }


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
